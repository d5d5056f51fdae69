"""Detectors and comparisons for the tests of the gradient engines."""

import copy
from contextlib import contextmanager

import torch

from odsg_lightning.detectors.build import build_detector, load_config
from odsg_lightning.saliency.gradients import AutogradLinearization


def allow_double_nms(monkeypatch):
    """Let Detectron2 0.5 run in double precision: it decodes boxes, but not scores, in single precision."""
    nms = torch.ops.torchvision.nms
    monkeypatch.setattr("torchvision.ops.boxes.nms", lambda boxes, scores, iou: nms(boxes, scores.float(), iou))


def finding_much(model):
    """Return a copy in double precision that keeps unlikely and overlapping detections, and two classes of a place."""
    model = copy.deepcopy(model).double()
    decoder = model if hasattr(model, "test_nms_thresh") else model.roi_heads.box_predictor
    decoder.test_score_thresh, decoder.test_nms_thresh = 1e-3, 0.95
    return model


def full_size(name, **overrides):
    """Return a detector of a full-size configuration with random weights that do not overflow."""
    torch.manual_seed(0)
    few = {
        "MODEL.RETINANET.SCORE_THRESH_TEST": 0.0,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 20,
        "TEST.DETECTIONS_PER_IMAGE": 5,
    }
    model = build_detector(load_config(name, few | overrides, num_classes=3)).eval()
    for part, parameter in model.named_parameters():
        if part.endswith("conv3.weight"):
            parameter.data.mul_(0.1)  # without trained statistics, sixteen residual blocks overflow
    return model


def first(candidates, wanted):
    """Return the first candidate that is as wanted: what a half-trained detector finds differs between machines."""
    for candidate in candidates:
        if wanted(candidate):
            return candidate
    raise AssertionError("Expected one of the candidates to have what the test is about, but none has: take more.")


def image_with(adapter, images, count):
    """Return the first image in which a detector finds at least ``count`` objects that no border of it clips."""

    def found(image):
        with torch.no_grad():
            return adapter.detect([image])[0]

    return first(images, lambda image: len(unclipped(found(image), image)) >= count)


def unclipped(detections, image):
    """Return the indices of the detections that no border of the image clips, best first: their maps are defined."""
    height, width = image.shape[1:]
    x_min, y_min, x_max, y_max = detections.boxes.unbind(1)
    inside = (x_min > 0) & (y_min > 0) & (x_max < width) & (y_max < height)
    return [index for index in detections.scores.argsort(descending=True).tolist() if inside[index]]


def cut_through(sample):
    """Return the side of an image up to the middle of its first object, at a size that is not a multiple of 32."""
    middle = int(sample.boxes[0, 0::2].mean())
    image = sample.image[:, :115]
    return (image[:, :, middle:] if middle < 64 else image[:, :, :middle]).double()


def on_image(gradient, image):
    """Return a local gradient on the whole image, ``[5, 3, H, W]``."""
    full = image.new_zeros(len(gradient.values), *image.shape)
    bottom, right = gradient.top + gradient.values.shape[2], gradient.left + gradient.values.shape[3]
    full[:, :, gradient.top : bottom, gradient.left : right] = gradient.values
    return full


def assert_as_plain_autograd(adapter, image, indices=None, tolerance=1e-6, **options):
    """Compare every number of every detection; return the plain gradients."""
    plain = AutogradLinearization(adapter, image)
    engine = adapter.linearize(image, **{"engine": "cut", **options})
    for field in ("boxes", "scores", "labels"):
        torch.testing.assert_close(getattr(engine.detections, field), getattr(plain.detections, field))
    assert len(plain.detections) > 0
    indices = list(range(len(plain.detections))) if indices is None else indices
    expected = [gradient.values for gradient in plain.gradients(indices)]
    found = [on_image(gradient, image) for gradient in engine.gradients(indices)]
    for index, one, other in zip(indices, found, expected, strict=True):
        assert one.dtype == other.dtype
        largest = other.abs().amax(dim=(1, 2, 3), keepdim=True)
        difference = (one - other).abs() / largest.where(largest > 0, 1)
        assert float(difference.max()) <= tolerance, (index, difference.amax(dim=(1, 2, 3)))
        assert not one[largest.flatten() == 0].any(), index  # exactly zero where plain autograd is
    return expected


@contextmanager
def untouched(model):
    """Check that a block leaves a model and autograd as they were."""
    mode = torch.is_grad_enabled()
    before = [parameter.requires_grad for parameter in model.parameters()]
    hooks, attributes = _hooks(model), [sorted(vars(module)) for module in model.modules()]
    yield
    assert torch.is_grad_enabled() == mode
    assert [parameter.requires_grad for parameter in model.parameters()] == before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert _hooks(model) == hooks
    assert [sorted(vars(module)) for module in model.modules()] == attributes


def _hooks(model):
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [len(getattr(module, name)) for module in model.modules() for name in names]
