import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch
from helpers.tiny_torchvision import KINDS, tiny_torchvision
from lightning.pytorch import LightningModule
from torch import nn
from torchvision.ops import box_iou

from odsg_lightning import resolve_adapter
from odsg_lightning.detectors.torchvision import TorchvisionAdapter
from odsg_lightning.errors import UserInputError
from odsg_lightning.saliency.gradients import engine_choice, linearize

IMAGE = torch.rand(3, 64, 80, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 255


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def adapter(kind, **settings):
    return TorchvisionAdapter(tiny_torchvision(kind).double(), **settings)


def detections(detector, image=IMAGE):
    with torch.no_grad():
        return detector.detect([image])[0]


def inside(boxes):
    """Which boxes no border clips."""
    height, width = IMAGE.shape[1:]
    most = boxes.new_tensor([width, height] * 2)
    return ((boxes > 0.1) & (boxes < most - 0.1)).all(dim=1).nonzero().flatten().tolist()


@contextmanager
def same_proposals(model):
    """Whatever the image, Faster R-CNN has the proposals of :data:`IMAGE`: torchvision detaches them."""
    kept = []

    def keep(module, args, output):
        kept.append(output)
        return kept[0]

    handles = [model.rpn.register_forward_hook(keep)] if hasattr(model, "rpn") else []
    yield
    for handle in handles:
        handle.remove()


def test_gradients_equal_finite_differences(kind):
    detector = adapter(kind)
    with same_proposals(detector.model):
        linearization = linearize(detector, IMAGE)
        reference = linearization.detections
        index = inside(reference.boxes)[0]
        (gradient,) = (local.values for local in linearization.gradients([index]))

        def numbers(image):
            found = detections(detector, image)
            same = found.labels == reference.labels[index]
            best = (box_iou(reference.boxes[index, None], found.boxes)[0] * same).argmax()
            return found.parameters[best]

        noise = torch.randn(5, *IMAGE.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        for number in range(5):
            for direction in (gradient[number] / gradient[number].abs().max(), noise[number]):
                step = 1e-3 * direction  # of a grey level
                numeric = (numbers(IMAGE + step) - numbers(IMAGE - step))[number] / 2e-3
                expected = (gradient[number] * direction).sum()
                assert float(numeric) == pytest.approx(float(expected), rel=1e-4), number


def test_proposals_of_faster_r_cnn_are_detached():
    detector = adapter("faster_rcnn")
    linearization = linearize(detector, IMAGE)
    index = inside(linearization.detections.boxes)[0]
    (gradient,) = (local.values for local in linearization.gradients([index]))
    step = 1e-3 * gradient[0] / gradient[0].abs().max()
    higher, lower = (detections(detector, image).boxes[index, 0] for image in (IMAGE + step, IMAGE - step))
    whole, through_features = float(higher - lower) / 2e-3, float((gradient[0] * step).sum()) / 1e-3
    assert abs(whole - through_features) > 0.01 * abs(through_features)


def test_detections_are_those_of_the_model_in_pixels_of_the_image(kind):
    detector = adapter(kind)
    found = detections(detector)
    with torch.no_grad():
        (own,) = detector.model([IMAGE / 255])
    assert len(found) == 8
    assert torch.equal(found.boxes, own["boxes"])
    assert torch.equal(found.scores, own["scores"])
    height, width = IMAGE.shape[1:]  # the model itself sees them resized by 3/2, or to a square
    assert (found.boxes <= found.boxes.new_tensor([width, height] * 2) * (1 + 1e-6)).all()  # it scales in float32
    assert found.boxes[:, 2].max() > 0.6 * width


@pytest.mark.parametrize("most", [3, 100])
def test_gradients_need_no_proposals_but_those_that_become_detections(most):
    detector = adapter("faster_rcnn")
    heads = detector.model.roi_heads
    heads.detections_per_img = most
    expected = detections(detector)
    assert len(expected) == most or most > 20
    pooled = []
    heads.box_head.register_forward_hook(lambda _, args, output: pooled.append(len(output)))
    (found,) = detector.detect([IMAGE.clone().requires_grad_()])
    torch.testing.assert_close(found.parameters.detach(), expected.parameters, rtol=1e-9, atol=1e-9)
    assert torch.equal(found.labels, expected.labels)
    assert pooled[0] == 20
    assert pooled[1] <= min(most, 20)
    assert not detector.model.rpn._forward_hooks


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn", "keypoint_rcnn"])
def test_nothing_detected_is_no_proposal_either(kind):
    detector = adapter(kind)
    detector.model.roi_heads.score_thresh = 1.0
    assert len(detector.detect([IMAGE.clone().requires_grad_()])[0]) == 0


def test_labels_begin_at_zero_where_zero_is_the_background(kind):
    detector = adapter(kind)
    with torch.no_grad():
        (own,) = detector.model([IMAGE / 255])
    background = 0 if kind in ("retinanet", "fcos") else 1
    assert torch.equal(detections(detector).labels, own["labels"] - background)


def test_labels_of_ones_own_are_class_indices_and_others_are_left_out():
    plain, mapped = detections(adapter("retinanet")), detections(adapter("retinanet", labels=[7, 1]))
    assert set(plain.labels.tolist()) == {0, 1}
    assert set(mapped.labels.tolist()) == {1}
    assert torch.equal(mapped.scores, plain.scores[plain.labels == 1])


def test_preprocessing_of_ones_own():
    bgr = adapter("retinanet", preprocess=lambda image: image.flip(0) / 255)
    assert detections(bgr, IMAGE.flip(0)) == detections(adapter("retinanet"))
    assert detections(bgr) != detections(adapter("retinanet"))


def test_an_image_is_detected_in_as_if_it_were_alone(kind):
    detector, larger = adapter(kind), torch.rand(3, 96, 96, dtype=torch.float64) * 255
    with torch.no_grad():
        first, second = detector.detect([IMAGE, larger])
    assert first == detections(detector)
    assert second == detections(detector, larger)


def test_a_batch_of_one_size_is_what_each_is_alone_up_to_rounding(kind):
    detector = adapter(kind)
    for found, image in zip(detector.detect_batch([IMAGE, IMAGE.flip(2)]), (IMAGE, IMAGE.flip(2)), strict=True):
        alone = detections(detector, image)
        torch.testing.assert_close(found.parameters, alone.parameters)
        assert torch.equal(found.labels, alone.labels)
        assert not found.boxes.requires_grad


def test_plain_autograd_runs_and_says_so():
    assert engine_choice(adapter("fcos")).name == "autograd"


class Plain(LightningModule):
    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)


def test_found_inside_a_lightning_module(kind):
    model = tiny_torchvision(kind)
    found = resolve_adapter(Plain(nn.Linear(1, 1), nn.Sequential(model)))
    assert isinstance(found, TorchvisionAdapter)
    assert found.model is model


def test_two_are_refused_by_name():
    with pytest.raises(UserInputError, match=r"found 2 \(RetinaNet of torchvision, FasterRCNN of torchvision\)"):
        resolve_adapter(Plain(tiny_torchvision("retinanet"), tiny_torchvision("faster_rcnn")))


def test_training_mode_half_precision_and_other_models_are_refused(kind):
    model = tiny_torchvision(kind)
    with pytest.raises(RuntimeError, match="Expected the detector in eval mode"):
        TorchvisionAdapter(model.train()).detect([IMAGE])
    with pytest.raises(RuntimeError, match=r"single or double precision, but got torch.bfloat16"):
        TorchvisionAdapter(model.eval().bfloat16()).detect([IMAGE])
    with pytest.raises(ValueError, match=r"torchvision's detectors \(GeneralizedRCNN, SSD, .*\), but got Linear"):
        TorchvisionAdapter(nn.Linear(1, 1))


def test_torchvision_is_loaded_by_nobody_but_who_has_its_detector():
    code = (
        "import sys, torch\nfrom odsg_lightning.detectors.resolve import resolve_adapter\n"
        "try: resolve_adapter(torch.nn.Linear(1, 1))\nexcept ValueError: print(*(p for p in "
        "('detectron2', 'torchvision', 'transformers', 'rfdetr') if p in sys.modules), 'done')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["done"]
