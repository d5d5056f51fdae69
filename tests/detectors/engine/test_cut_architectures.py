"""The cut engine on every kind of Detectron2 detector that it knows, with random weights, in double precision."""

import warnings

import pytest
import torch
from detectron2.modeling.meta_arch import retinanet
from helpers.engine_cases import assert_as_plain_autograd, full_size, untouched
from torch import nn

from odsg_lightning.detectors.build import build_detector, load_config
from odsg_lightning.detectors.detectron2 import Detectron2Adapter
from odsg_lightning.detectors.engine.backbone import AutogradBackbone
from odsg_lightning.detectors.engine.cut import CutLinearization
from odsg_lightning.detectors.engine.receptive_field import receptive_radius
from odsg_lightning.detectors.engine.window import Window


def exact(model, height, width, indices=None, dtype=torch.float64, tolerance=1e-6):
    """Compare with plain autograd; a fallback to it would prove nothing, and is an error."""
    adapter = Detectron2Adapter(model.to(dtype))
    image = torch.rand(3, height, width, dtype=dtype, generator=torch.Generator().manual_seed(1)) * 255
    assert adapter.choose_engine("cut").name == "cut"
    with warnings.catch_warnings(), untouched(model):
        warnings.simplefilter("error", RuntimeWarning)
        assert isinstance(adapter.linearize(image, engine="cut"), CutLinearization)
        return assert_as_plain_autograd(adapter, image, indices, tolerance)


def tiny(name, overrides=(), seed=0):
    torch.manual_seed(seed)
    few = {
        "MODEL.RETINANET.SCORE_THRESH_TEST": 0.0,
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
        "TEST.DETECTIONS_PER_IMAGE": 4,
    }
    return build_detector(load_config(name, few | dict(overrides))).eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("retinanet_R_50_FPN", {}),
        ("faster_rcnn_R_50_FPN", {}),
        ("faster_rcnn_R_50_C4", {"MODEL.MASK_ON": True}),  # its mask head uses the box pooler again
        ("faster_rcnn_R_50_DC5", {}),
    ],
)
def test_full_size(name, overrides):
    model = full_size(name, **{"MODEL.RPN.POST_NMS_TOPK_TEST": 3}, **overrides)
    (gradient,) = exact(model, 58, 90, [0])
    assert gradient[4].any()


def test_crops_inside_a_large_image():
    # No crop reaches the border here: its own border must not matter.
    exact(tiny("retinanet_tiny", {"MODEL.RETINANET.NUM_CONVS": 1}), 288, 320, [0])
    model = tiny("faster_rcnn_tiny")
    for size in (20, 40, 224):  # which puts the proposals on p4, on p3 and p4, and on p2
        model.roi_heads.box_pooler.canonical_box_size = size
        exact(model, 288, 320, [0])


def test_maps_of_one_cell():
    exact(tiny("retinanet_tiny"), 32, 32)  # Detectron2's sigmoid in place reaches what the head returned


@pytest.mark.parametrize("norm", ["GN", "BN", "FrozenBN"])
def test_normalised_heads(norm, monkeypatch):
    # Detectron2 0.6 makes one of a single channel to learn its name, which group norm refuses: see test_build.py.
    get_norm = retinanet.get_norm
    monkeypatch.setattr(retinanet, "get_norm", lambda kind, channels: get_norm(kind, max(channels, 32)))
    model = tiny("retinanet_tiny", {"MODEL.RETINANET.NORM": norm})
    # Group norm looks at the whole map; Detectron2 0.6 has a batch norm for each level, in the order of the calls.
    by_level = any(type(module).__name__ == "CycleBatchNormList" for module in model.head.modules())
    assert receptive_radius(model.head) == (None if norm == "GN" or by_level else 3)
    exact(model, 64, 96)


def test_mask_rcnn():
    exact(tiny("faster_rcnn_tiny", {"MODEL.MASK_ON": True, "MODEL.ROI_MASK_HEAD.NUM_CONV": 1}), 64, 96)


@pytest.mark.parametrize(
    "overrides",
    [
        {"MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True},
        {"MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign", "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 0},
        {"MODEL.ROI_BOX_HEAD.NUM_CONV": 1, "MODEL.ROI_BOX_HEAD.NORM": "GN"},
        {"MODEL.ROI_HEADS.IN_FEATURES": ["p2"]},
    ],
    ids=["class-agnostic", "RoIAlign-adaptive", "group-norm", "one-level"],
)
def test_box_heads(overrides):
    exact(tiny("faster_rcnn_tiny", overrides), 96, 160)


def test_roi_pool():
    # It wants boxes of the features' precision, and Detectron2's are single. It rounds boxes, and is not cropped.
    exact(tiny("faster_rcnn_tiny", {"MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIPool"}), 96, 160, None, torch.float32, 1e-4)


def test_cascade_rcnn_is_left_to_plain_autograd():
    cascade = {"MODEL.ROI_HEADS.NAME": "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True}
    adapter = Detectron2Adapter(tiny("faster_rcnn_tiny", cascade).double())
    choice = adapter.choose_engine()
    assert choice.name == "autograd"
    assert "a ModuleList: not one stage" in choice.reason
    assert_as_plain_autograd(adapter, torch.rand(3, 64, 96, dtype=torch.float64) * 255, [0], engine="auto")


@pytest.mark.parametrize(
    ("layer", "radius"),
    [
        (nn.Conv2d(64, 64, 5, padding=2), 4),
        (nn.Conv2d(64, 64, 3, padding=2, dilation=2), 4),
        (nn.Conv2d(64, 64, 1), 3),
        (nn.Identity(), 3),
        (nn.Conv2d(64, 64, (3, 5), padding=(1, 2)), None),
        (nn.Conv2d(64, 64, 3, padding="same"), None),
        (nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect"), None),
        (nn.BatchNorm2d(64, track_running_stats=False), None),
        (nn.InstanceNorm2d(64), None),
    ],
    ids=repr,
)
def test_the_reach_of_a_head(layer, radius):
    model = tiny("retinanet_tiny")
    assert receptive_radius(model.head) == 3
    if radius == 4:
        model.head.bbox_subnet[2] = layer
    else:
        model.head.bbox_subnet[1] = layer.eval()
    assert receptive_radius(model.head) == radius
    if not isinstance(layer, nn.BatchNorm2d):
        exact(model, 64, 96, [0])


class TestAutogradBackbone:
    @pytest.fixture(params=["retinanet_tiny", "faster_rcnn_tiny"])
    def backbone(self, request):
        return tiny(request.param).double().backbone.requires_grad_(False)

    def test_one_pass_for_all_cotangents_equals_one_for_each(self, backbone):
        results = []
        cotangents = {name: Window(torch.rand(7, 64, 2, 1, dtype=torch.float64), 1, 2) for name in ("p3", "p4")}
        for batched in (False, True):
            engine = AutogradBackbone(backbone, batched)
            with engine.recording():
                features = backbone(torch.ones(1, 3, 64, 64, dtype=torch.float64))
            assert not any(feature.requires_grad for feature in features.values())
            results.append(engine.vjp(cotangents))
        assert results[0].values.shape == (7, 3, 64, 64)
        torch.testing.assert_close(results[1].values, results[0].values, rtol=1e-10, atol=1e-12)

    def test_operators_that_cannot_be_batched_are_taken_one_by_one(self, backbone):
        class Strange(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x.clone()

            @staticmethod
            def backward(ctx, gradient):
                return gradient * float(gradient.abs().sum() > 0)  # asks for a value: vmap refuses

        backbone.bottom_up.stem.register_forward_hook(lambda module, args, output: Strange.apply(output))
        self.test_one_pass_for_all_cotangents_equals_one_for_each(backbone)
