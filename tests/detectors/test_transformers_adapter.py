from functools import cache

import pytest
import torch
from helpers.finite_differences import assert_equals_differences, gradients_and_differences
from helpers.tiny_detr import CLASSES, REFINING, TRANSFORMERS, processor_of, tiny_transformers
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.overrides import TorchFunctionMode

transformers = pytest.importorskip("transformers")

from odsg_lightning import resolve_adapter  # noqa: E402
from odsg_lightning.detectors.transformers import LEAST_SCORE, TransformersAdapter  # noqa: E402
from odsg_lightning.errors import UserInputError  # noqa: E402

IMAGE = torch.rand(3, 48, 80, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 255
model_of = cache(tiny_transformers)


def adapter(kind, **settings):
    """In double precision: transformers normalises in single precision, so nothing is normalised."""
    return TransformersAdapter(model_of(kind).double(), processor_of(kind, do_normalize=False), **settings)


def detections(detector, image=IMAGE):
    with torch.no_grad():
        return detector.detect([image])[0]


class Pinned(TorchFunctionMode):
    """What is detached has the values of the first time, whatever the image."""

    def __init__(self, values) -> None:
        super().__init__()
        self.values, self.count = values, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is not Tensor.detach:
            return result
        self.count += 1
        return self.values.setdefault(self.count, result)


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_gradients_equal_finite_differences_of_what_is_not_detached(kind, monkeypatch):
    detector, values = adapter(kind), {}
    forward = detector.model.forward

    def pinned(**inputs):
        with Pinned(values):
            return forward(**inputs)

    monkeypatch.setattr(detector.model, "forward", pinned)
    assert_equals_differences(detector, IMAGE, 0)
    assert bool(values) == (kind in REFINING)


@pytest.mark.parametrize("kind", REFINING)
def test_through_refinement_they_equal_finite_differences_of_everything(kind):
    assert_equals_differences(adapter(kind, through_refinement=True), IMAGE, 0)
    last, whole = gradients_and_differences(adapter(kind), IMAGE, 0)
    assert ((last - whole).abs().amax(dim=1) > 0.01 * whole.abs().amax(dim=1))[:4].all()


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_detections_are_those_of_the_processor_in_pixels_of_the_image(kind):
    detector = adapter(kind)
    found = detections(detector)
    with torch.no_grad():
        outputs = detector.model(**detector.processor(images=IMAGE, return_tensors="pt"))
    (own,) = detector.processor.post_process_object_detection(outputs, LEAST_SCORE, target_sizes=[(48, 80)])
    assert len(found) > 0
    assert torch.equal(found.boxes, own["boxes"])
    assert torch.equal(found.scores, own["scores"])
    assert torch.equal(found.labels, own["labels"])
    assert found.labels.max() < CLASSES
    with torch.no_grad():  # an image of twice the size, which the model sees as the same 64 x 64 pixels, about
        (twice,) = detector.detect([torch.nn.functional.interpolate(IMAGE[None], scale_factor=2.0)[0]])
    assert torch.allclose(twice.boxes[0], 2 * found.boxes[0], atol=8)


def test_softmax_has_a_class_for_nothing_and_sigmoid_has_none():
    for kind, outputs in (("detr", CLASSES + 1), ("rt_detr", CLASSES)):
        assert model_of(kind)(torch.zeros(1, 3, 64, 64, dtype=torch.float64)).logits.shape[2] == outputs
        assert detections(adapter(kind)).labels.max() < CLASSES


def test_normalisation_keeps_the_graph():
    model = model_of("detr").double()
    detector = TransformersAdapter(model, processor_of("detr"))
    gradients, differences = gradients_and_differences(detector, IMAGE, 0, step=4.0)  # single precision
    assert torch.allclose(gradients, differences, rtol=0.02, atol=0.02 * float(gradients.abs().max()))


def test_a_padded_image_has_its_boxes_in_its_own_pixels():
    model = model_of("rt_detr").double()
    settings = {"do_normalize": False, "do_pad": True, "pad_size": {"height": 64, "width": 96}}
    padding = TransformersAdapter(model, processor_of("rt_detr", 48, 80, **settings))
    plain = TransformersAdapter(model, processor_of("rt_detr", 64, 96, do_normalize=False))
    black = torch.nn.functional.pad(IMAGE, (0, 16, 0, 16))
    assert torch.allclose(detections(padding).boxes, detections(plain, black).boxes)


def test_a_batch_detects_what_single_images_do():
    detector = adapter("rt_detr")
    pair = [IMAGE, IMAGE.flip(2)]
    for together, alone in zip(detector.detect_batch(pair), detector.detect(pair), strict=True):
        assert torch.allclose(together.boxes, alone.boxes)
        assert torch.equal(together.labels, alone.labels)


def test_labels_without_a_name_are_no_classes():
    model = tiny_transformers("detr")
    found = detections(TransformersAdapter(model, processor_of("detr")), IMAGE.float())
    assert set(found.labels.tolist()) == {0}
    model.config.id2label = {0: "N/A", 1: "dent", 2: "rust"}
    assert len(detections(TransformersAdapter(model, processor_of("detr")), IMAGE.float())) == 0
    model.config.id2label = {0: "dent", 1: "N/A", 2: "rust"}
    renamed = detections(TransformersAdapter(model, processor_of("detr"), labels=[2, 0]), IMAGE.float())
    assert set(renamed.labels.tolist()) == {1}
    assert torch.equal(renamed.boxes, found.boxes)


class Training(LightningModule):
    def __init__(self, kind="rt_detr", **processors) -> None:
        super().__init__()
        self.net = model_of(kind)
        for name, processor in processors.items():
            setattr(self, name, processor)


def test_the_processor_of_the_module_is_taken():
    processor = processor_of("rt_detr")
    found = resolve_adapter(Training(processor=processor))
    assert isinstance(found, TransformersAdapter)
    assert found.processor is processor


def test_without_one_a_warning_says_what_is_assumed():
    with pytest.warns(UserWarning, match=r"default settings of RTDetrImageProcessor \(size=.*640"):
        found = resolve_adapter(Training())
    assert found.processor.size["height"] == 640


def test_two_processors_are_refused():
    with pytest.raises(UserInputError, match="hold one image processor, but found 2"):
        resolve_adapter(Training(first=processor_of("rt_detr"), second=processor_of("rt_detr", 32)))


def test_a_processor_of_numpy_is_refused():
    with pytest.raises(UserInputError, match="backend='torchvision'"):
        TransformersAdapter(model_of("rt_detr"), transformers.RTDetrImageProcessorPil())


def test_another_model_needs_a_processor():
    with pytest.raises(UserInputError, match=r"image processor that Linear is trained with"):
        TransformersAdapter(torch.nn.Linear(1, 1))
