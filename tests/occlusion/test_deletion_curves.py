"""Curves of detectors whose answers are known, and of a real one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2.functional import gaussian_blur

from odsg_lightning.detectors.detectron2 import Detectron2Adapter
from odsg_lightning.errors import UserInputError
from odsg_lightning.metrics.deletion import deletion_area, insertion_area
from odsg_lightning.occlusion.deletion import CURVES, deletion_curves, insertion_curves
from odsg_lightning.types import Detections

REFERENCE = Detections(torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([0.9]), torch.tensor([1]))


class Counting:
    """Its score is the share of the red pixels that are lit; the box moves away with the rest. A second class, too."""

    def __init__(self):
        self.calls = []

    def detect(self, images):
        self.calls.append(len(images))
        answers = []
        for image in images:
            share = (image[0] > 100).to(image.dtype).mean()
            box = torch.stack([4 - 4 * share, share * 0, 8 - 4 * share, share * 0 + 4])
            boxes = torch.stack([box, torch.tensor([0.0, 0, 4, 4]), torch.tensor([1.0, 0, 4, 4])]).to(image)
            scores = torch.stack([share, torch.tensor(0.99), share * 0 + 0.1]).to(image)
            answers.append(Detections(boxes, scores, torch.tensor([1, 0, 1])))
        return answers


def lit(height=2, width=4):
    return torch.full((3, height, width), 200.0, dtype=torch.float64)


def test_deletion_by_hand():
    """After each quarter the box has moved by 1 of 4 pixels: an IoU of 1, 3/5, 2/6, 1/7, 0; another always has 3/4."""
    maps = torch.arange(8.0).reshape(1, 2, 4)
    found = deletion_curves(Counting(), lit(), REFERENCE, maps, steps=4, fill="black")[0]
    by_name = dict(zip(CURVES, found.tolist(), strict=True))
    assert by_name["score_iou"] == pytest.approx([1, 0.75 * 3 / 5, 0.5 * 2 / 6, 0.1 * 3 / 4, 0.1 * 3 / 4])
    assert by_name["score"] == pytest.approx([1, 0.75, 0.1, 0.1, 0.1])
    assert by_name["iou"] == pytest.approx([1, 3 / 4, 3 / 4, 3 / 4, 3 / 4])
    inserted = insertion_curves(Counting(), lit(), REFERENCE, maps, steps=4, fill="black")[0]
    assert torch.equal(inserted, found.flip(1))  # the count alone matters to this one


class Recording:
    """Sees nothing, and keeps what it was shown."""

    def __init__(self):
        self.shown = []

    def detect(self, images):
        self.shown += [image.clone() for image in images]
        return [Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)) for _ in images]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(2, 7), st.integers(2, 7), st.booleans())
def test_the_pixels_go_in_the_order_of_the_map_and_of_equal_values_the_first(seed, steps, height, width, insertion):
    rng = np.random.default_rng(seed)
    image, values = rng.integers(1, 255, (3, height, width)).astype(float), np.floor(rng.random((height, width)) * 3)
    values[-1, -1] = 1
    recording, curves = Recording(), insertion_curves if insertion else deletion_curves
    found = curves(
        recording, torch.from_numpy(image), REFERENCE, torch.from_numpy(values)[None], steps=steps, fill="black"
    )
    assert torch.equal(found, torch.zeros(1, 3, steps + 1, dtype=torch.float64))
    ranked = sorted(np.ndindex(values.shape), key=lambda place: (-values[place], place))
    for step in range(steps + 1):
        expected = np.zeros_like(image) if insertion else image.copy()
        for row, column in ranked[: step * len(ranked) // steps]:
            expected[:, row, column] = image[:, row, column] if insertion else 0
        np.testing.assert_array_equal(recording.shown[step].numpy(), expected)
    assert len(recording.shown) == steps + 1


@pytest.mark.parametrize("fill", ["blur", "grey", "black"])
def test_what_stands_in_the_place_of_pixels(fill):
    image = 255 * torch.rand(3, 60, 70, generator=torch.Generator().manual_seed(0))
    recording = Recording()
    deletion_curves(recording, image, REFERENCE, torch.ones(1, 60, 70), steps=1, fill=fill)
    whole, filled = recording.shown
    assert torch.equal(whole, image)
    if fill == "blur":  # computed on half of the resolution
        assert float((filled - gaussian_blur(image, [61, 61], [10.0, 10.0])).abs().max()) < 2
    else:
        assert filled.unique().tolist() == [{"grey": 127.5, "black": 0.0}[fill]]


def test_an_undefined_map_has_no_curve_and_costs_nothing():
    maps = torch.stack([torch.zeros(2, 4), torch.full((2, 4), torch.nan), torch.ones(2, 4)])
    counting, three = Counting(), REFERENCE[[0, 0, 0]]
    found = deletion_curves(counting, lit(), three, maps, steps=50, fill="grey")
    assert found.flatten(1).isnan().all(dim=1).tolist() == [True, True, False]
    assert sum(counting.calls) == 51
    assert max(counting.calls) > 1  # several images in a call
    assert deletion_curves(counting, lit(), REFERENCE[[]], maps[:0]).shape == (0, 3, 51)


def test_bad_input():
    maps = torch.ones(1, 2, 4)
    with pytest.raises(ValueError, match=r"`maps` to be a float tensor \(1, 2, 4\), one map for each object, but got"):
        deletion_curves(Counting(), lit(), REFERENCE, maps[0])
    for steps in (0, 2.5, True):
        with pytest.raises(UserInputError, match="`steps` to be an integer of at least 1"):
            insertion_curves(Counting(), lit(), REFERENCE, maps, steps=steps)
    with pytest.raises(UserInputError, match=r"`fill` to be one of .'blur', 'grey', 'black'., but got 'white'"):
        insertion_curves(Counting(), lit(), REFERENCE, maps, fill="white")

    class Silent:
        def detect(self, images):
            return []

    with pytest.raises(ValueError, match="one result for each of 2 images, but got 0"):
        deletion_curves(Silent(), lit(), REFERENCE, maps, steps=1)


@pytest.mark.slow
def test_a_real_detector_loses_an_object_sooner_by_its_mask_than_by_the_opposite(trained_retinanet):
    adapter, sample = Detectron2Adapter(trained_retinanet.model), trained_retinanet.samples[0]
    (found,) = adapter.detect([sample.image])
    found = found.detach()[[0]]
    x_min, y_min, x_max, y_max = found.boxes[0].round().int().tolist()
    on_box = torch.full((1, *sample.image.shape[1:]), 0.1)
    on_box[0, y_min:y_max, x_min:x_max] = 1
    deleted = [deletion_area(deletion_curves(adapter, sample.image, found, m))[0] for m in (on_box, 1.1 - on_box)]
    inserted = [insertion_area(insertion_curves(adapter, sample.image, found, m))[0] for m in (on_box, 1.1 - on_box)]
    assert (deleted[0] < deleted[1] - 0.2).all()
    assert (inserted[0] > inserted[1]).all()
    assert (
        inserted[0] - inserted[1]
    ).mean() > 0.2  # of each, that hangs on the training: a blurred object may be enough
