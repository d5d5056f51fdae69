"""D-RISE against loops in NumPy, against xaitk-saliency where it is installed, and on detectors with a known answer."""

import numpy as np
import pytest
import torch
from helpers.known_detectors import LinearDetector, two_objects

from odsg_lightning.errors import UserInputError
from odsg_lightning.explainers.d_rise import DRISE, proposal_weights, random_masks
from odsg_lightning.types import Detections, Proposals

SIZE = (20, 30)
IMAGE = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(0)) * 255
BOXES = torch.tensor([[2.0, 3, 9, 12], [15, 5, 28, 18]])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Seeing:
    """Proposes an object where the image is bright enough: its box shrinks and its probabilities mix as it darkens."""

    def __init__(self):
        self.seen, self.batches = [], []

    def detect(self, images):
        return [Detections(one.boxes, *one.probabilities.max(dim=1)) for one in self.proposals(images)]

    def proposals(self, images):
        self.batches.append(len(images))
        found = []
        for image in images:
            boxes, probabilities = [], []
            for label, (x1, y1, x2, y2) in enumerate(BOXES.tolist()):
                part = slice(int(y1), int(y2)), slice(int(x1), int(x2))
                light = float(image[:, *part].mean() / IMAGE[:, *part].mean())
                if light > 0.2:
                    boxes.append([x1, y1, x2 - (1 - light) * (x2 - x1), y2])
                    probabilities.append([light, 1 - light] if label == 0 else [1 - light, light])
            found.append(Proposals(torch.tensor(boxes).reshape(-1, 4), torch.tensor(probabilities).reshape(-1, 2)))
            self.seen.append(found[-1])
        return found


def explained(explainer, detector, seed=0, on_sample=lambda: None):
    (reference,) = detector.detect([IMAGE])
    return explainer.explain(detector, IMAGE, reference, [1, 0], generator=generator(seed), on_sample=on_sample)


def iou_in_loops(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def test_as_loops_in_numpy():
    detector = Seeing()
    found = explained(DRISE(n_masks=70, cells=4, batch_size=16), detector)
    assert detector.batches == [1, 1, 16, 16, 16, 16, 6]
    masks = [mask.numpy().astype(float) for mask in random_masks(70, 4, 0.5, SIZE, generator())]
    of_copies = detector.seen[2:]
    for saliency, target in zip(found, (1, 0), strict=True):
        looked_for = np.eye(2)[target]  # undarkened, each is surely of its class
        total, coverage, weighted = np.zeros(SIZE), np.zeros(SIZE), 0
        for mask, proposals in zip(masks, of_copies, strict=True):
            weight = 0.0
            for box, p in zip(proposals.boxes.tolist(), proposals.probabilities.numpy(), strict=True):
                cosine = looked_for @ p / np.sqrt(p @ p)
                weight = max(weight, iou_in_loops(BOXES[target].tolist(), box) * cosine)
            total, coverage, weighted = total + weight * mask, coverage + mask, weighted + (weight > 0)
        mean = total / coverage
        expected = (mean - mean.min()) / (mean.max() - mean.min())
        np.testing.assert_allclose(saliency.maps[4], expected, atol=1e-4)  # single precision, stretched
        assert saliency.maps[:4].isnan().all()
        assert (saliency.parameters, saliency.n_samples, saliency.matched_samples) == (("score",), 70, weighted)


def test_as_xaitk():
    drise = pytest.importorskip("xaitk_saliency.impls.gen_detector_prop_sal.drise_scoring")
    detector = Seeing()
    found = explained(DRISE(n_masks=60, cells=4), detector)
    masks = np.stack([mask.numpy() for mask in random_masks(60, 4, 0.5, SIZE, generator())])
    most = max(len(one.boxes) for one in detector.seen)
    pixel_less = np.array([0, 0, 1, 1])  # its boxes hold their last pixel

    def rows(boxes, probabilities):
        filled = np.zeros((most, 4 + 1 + 2))  # what is missing has no objectness, but a class: no cosine is 0 / 0
        filled[:, 5] = 1
        filled[: len(boxes), :4], filled[: len(boxes), 4] = boxes - pixel_less, 1
        filled[: len(boxes), 5:] = probabilities
        return filled

    copies = np.stack([rows(one.boxes.numpy(), one.probabilities.numpy()) for one in detector.seen[2:]])
    theirs = drise.DRISEScoring().generate(rows(BOXES.numpy(), np.eye(2)), copies, masks)
    for saliency, target in zip(found, (1, 0), strict=True):
        stretched = (theirs[target] - theirs[target].min()) / (theirs[target].max() - theirs[target].min())
        np.testing.assert_allclose(saliency.maps[4], stretched, atol=1e-4)


def test_the_map_lies_on_the_object():
    for saliency, target in zip(explained(DRISE(n_masks=2000, cells=6), Seeing()), (1, 0), strict=True):
        x1, y1, x2, y2 = BOXES[target].int().tolist()
        inside = torch.zeros(SIZE, dtype=torch.bool)
        inside[y1:y2, x1:x2] = True
        score = saliency.maps[4]
        assert inside.flatten()[score.argmax()]
        assert score[inside].mean() > 2 * score[~inside].mean()


class TestMasks:
    def test_cells_are_kept_with_their_probability_and_every_offset_comes(self):
        masks = torch.stack(list(random_masks(3000, 4, 0.3, SIZE, generator())))
        assert masks.shape == (3000, *SIZE)
        assert 0 <= masks.min() < masks.max() <= 1 + 1e-6
        assert float((masks.mean(dim=0) - 0.3).abs().max()) < 0.05

    def test_one_mask_by_hand(self):
        """A grid of 2x2 on 2x3 pixels: cells of 1x2, stretched to 3x6 pixels, cropped at a column 0 or 1."""
        for seed in range(6):
            grid = (torch.rand(1, 1, 2, 2, generator=(twin := generator(seed))) < 0.5).float()[0, 0]
            torch.randint(1, (1,), generator=twin)
            left = int(torch.randint(2, (1,), generator=twin))
            [mask] = random_masks(1, 2, 0.5, (2, 3), generator(seed))
            for y in range(2):
                for x in range(3):
                    row = min(max((y + 0.5) * 2 / 3 - 0.5, 0), 1)
                    column = min(max((x + left + 0.5) * 2 / 6 - 0.5, 0), 1)
                    top = grid[0, 0] * (1 - column) + grid[0, 1] * column
                    bottom = grid[1, 0] * (1 - column) + grid[1, 1] * column
                    assert float(mask[y, x]) == pytest.approx(float(top * (1 - row) + bottom * row), abs=1e-6)

    @pytest.mark.parametrize("hidden", ["black", "mean"])
    def test_hidden_is_black_or_the_mean_colour(self, hidden):
        class Keeping(Seeing):
            def proposals(self, images):
                self.images = images
                return super().proposals(images)

        detector = Keeping()
        explained(DRISE(n_masks=1, cells=2, hidden=hidden), detector)
        [mask] = random_masks(1, 2, 0.5, SIZE, generator())
        fill = IMAGE.flatten(1).mean(dim=1)[:, None, None] if hidden == "mean" else 0
        torch.testing.assert_close(detector.images[0], IMAGE * mask + fill * (1 - mask))


class TestStop:
    def test_it_stops_where_both_halves_agree_and_says_so(self):
        calls = []
        found = explained(DRISE(n_masks=5000, cells=4, stop_at=0.8), Seeing(), on_sample=lambda: calls.append(1))
        assert 200 <= found[0].n_samples < 2000
        assert len(calls) == 5000

    def test_it_stops_at_the_first_look_at_which_the_halves_of_all_objects_correlate(self):
        detector = Seeing()
        [first, second] = explained(DRISE(n_masks=3000, cells=8, stop_at=0.8, batch_size=20), detector)
        made = first.n_samples
        assert second.n_samples == made
        assert made % 200 == 0
        masks = np.stack([mask.numpy() for mask in random_masks(made, 8, 0.5, SIZE, generator())])
        least = {}
        for count in (made - 200, made):
            correlations = []
            for target in (0, 1):
                looked_for = Proposals(BOXES[[target]], torch.eye(2)[[target]])
                seen = detector.seen[2 : 2 + count]
                weights = np.array([float(proposal_weights(looked_for, one)[0]) for one in seen])[:, None, None]
                halves = [(weights[i::2] * masks[i:count:2]).sum(0) / masks[i:count:2].sum(0) for i in (0, 1)]
                correlations.append(np.corrcoef(halves[0].ravel(), halves[1].ravel())[0, 1])
            least[count] = min(correlations)
        assert least[made - 200] < 0.8 <= least[made]

    def test_the_noise_that_follows_does_not_depend_on_it(self):
        states = []
        for stop_at in (None, 0.5):
            source = generator()
            detector = Seeing()
            (reference,) = detector.detect([IMAGE])
            settings = DRISE(n_masks=800, cells=4, stop_at=stop_at)
            settings.explain(detector, IMAGE, reference, [0], generator=source)
            states.append(source.get_state())
        assert torch.equal(*states)


class LabelsOnly:
    """A detector that offers no probabilities."""

    def detect(self, images):
        return [Detections(BOXES, torch.ones(2), torch.tensor([0, 5])) for _ in images]


def test_without_probabilities_the_class_decides():
    found = LabelsOnly().detect([IMAGE])[0]
    [saliency] = DRISE(n_masks=8).explain(LabelsOnly(), IMAGE, found, [0], generator=generator())
    assert saliency.matched_samples == 8
    assert saliency.maps.isnan().all()  # nothing that is hidden changes anything: no map
    other = Detections(BOXES, torch.ones(2), torch.tensor([3, 2]))
    [saliency] = DRISE(n_masks=8).explain(LabelsOnly(), IMAGE, other, [0], generator=generator())
    assert saliency.matched_samples == 0


def test_a_box_over_the_border_is_compared_as_proposals_are():
    whole, over = torch.tensor([[0.0, 0, 30, 20]]), torch.tensor([[-9.0, -5, 40, 25]])
    maps = []
    for boxes in (whole, over):

        class Whole(Seeing):
            def proposals(self, images):
                light = torch.stack([image.mean() / IMAGE.mean() for image in images]).clamp(0.1, 1)
                return [Proposals(whole * part, torch.tensor([[1.0, 0.0]])) for part in light]

        reference = Detections(boxes, torch.ones(1), torch.zeros(1).long())
        maps.append(DRISE(n_masks=20, cells=3).explain(Whole(), IMAGE, reference, [0], generator=generator())[0])
    assert maps[0] == maps[1]
    assert not maps[0].maps[4].isnan().any()


def test_nothing_asked_nothing_run():
    assert DRISE().explain(LinearDetector(*two_objects()), IMAGE, Seeing().detect([IMAGE])[0], [], generator=None) == []


def test_fixed_candidates_alone_are_refused():
    class Fixed(LabelsOnly):
        def probabilities(self, image):
            return torch.ones(2)

    with pytest.raises(UserInputError, match="Expected a detector that can be asked what else it sees, but Fixed"):
        DRISE().explain(Fixed(), IMAGE, LabelsOnly().detect([IMAGE])[0], [0], generator=generator())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_masks": 0}, "Expected argument `n_masks` to be an integer of at least 1, but got 0"),
        ({"cells": 1.5}, "Expected argument `cells` to be an integer of at least 1, but got 1.5"),
        ({"batch_size": True}, "Expected argument `batch_size` to be an integer of at least 1, but got True"),
        ({"hidden": "blur"}, r"Expected argument `hidden` to be one of \('black', 'mean'\), but got 'blur'"),
        ({"keep": 1.0}, "Expected argument `keep` to be between 0 and 1, but got 1.0"),
        ({"stop_at": 0}, "Expected argument `stop_at` to be between 0 and 1, but got 0"),
    ],
)
def test_settings_are_checked(setting, message):
    with pytest.raises(UserInputError, match=message):
        DRISE(**setting)
