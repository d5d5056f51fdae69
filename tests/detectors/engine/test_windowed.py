"""The windowed engine against autograd through the same backbone, in float64, where rounding hides nothing."""

import copy

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone
from torch import nn

from odsg_lightning.detectors.build import build_detector, load_config
from odsg_lightning.detectors.engine.backbone import AutogradBackbone
from odsg_lightning.detectors.engine.strided_window import Box, Scratch, StridedWindow, clipped, summed
from odsg_lightning.detectors.engine.window import UnsupportedModelError, Window
from odsg_lightning.detectors.engine.windowed import WindowedBackbone

CHANNELS = 16
IMAGE = torch.randn(1, 3, 96, 160, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def make_backbone(depth=50, pyramid="retinanet", frozen=False, calibrate=True, **options):
    """A random ResNet-FPN whose activations neither vanish nor explode, with a scale and a shift in each norm."""
    cfg = get_cfg()
    cfg.MODEL.FPN.OUT_CHANNELS = CHANNELS
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.NORM = depth, "BN"
    if depth < 50:
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    stages = ["res2", "res3", "res4", "res5"] if pyramid == "faster_rcnn" else ["res3", "res4", "res5"]
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = stages
    middle = "_" if pyramid == "faster_rcnn" else "_retinanet_"
    cfg.MODEL.BACKBONE.NAME = f"build{middle}resnet_fpn_backbone"
    for name, value in options.items():
        cfg.merge_from_list([name.replace("__", "."), value])
    torch.manual_seed(0)
    backbone = build_backbone(cfg).double()
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.normal_(0, 0.2)
    if calibrate:
        backbone.train()
        with torch.no_grad():
            backbone(torch.randn(2, 3, 96, 96, dtype=torch.float64))
    backbone = backbone.eval()
    return FrozenBatchNorm2d.convert_frozen_batchnorm(backbone) if frozen else backbone


class Both:
    """One forward pass recorded by the windowed engine, and one by autograd."""

    def __init__(self, backbone, image=IMAGE):
        self.image = image
        self.engines = WindowedBackbone(backbone), AutogradBackbone(backbone)
        for engine in self.engines:
            with engine.recording():
                self.features = backbone(image)
        self.sizes = {name: tuple(feature.shape[2:]) for name, feature in self.features.items()}

    def worst_difference(self, cotangents):
        """Largest difference of any cotangent's gradient, relative to that gradient's maximum."""
        found, expected = (self._full(engine.vjp(cotangents)) for engine in self.engines)
        difference = (found - expected).abs().amax((1, 2, 3)) / expected.abs().amax((1, 2, 3))
        return float(difference.max())

    def _full(self, window):
        full = torch.zeros(window.values.shape[0], *self.image.shape[1:], dtype=self.image.dtype)
        full[:, :, window.top : window.bottom, window.left : window.right] = window.values
        return full


def windows_on(size, count=2):
    """Windows in a corner, in the middle and of all cells."""
    height, width = size
    generator = torch.Generator().manual_seed(1)
    middle = (height // 2, width // 2 - width // 4, max(1, height // 4), max(1, width // 3))
    for top, left, h, w in dict.fromkeys([(height - 1, width - 1, 1, 1), middle, (0, 0, height, width)]):
        values = torch.randn(count, CHANNELS, h, w, generator=generator, dtype=torch.float64)
        yield Window(values, top, left)


BACKBONES = {
    "R50, strides in 1x1": {},
    "R50, strides in 3x3": {"MODEL__RESNETS__STRIDE_IN_1X1": False},
    "R50 for Faster R-CNN": {"pyramid": "faster_rcnn"},
    "R101": {"depth": 101},
    "R18, frozen norms": {"depth": 18, "frozen": True},
    "R34 for Faster R-CNN": {"depth": 34, "pyramid": "faster_rcnn"},
    "mean instead of sum in the pyramid": {"depth": 18, "MODEL__FPN__FUSE_TYPE": "avg"},
    "norms in the pyramid": {"depth": 18, "MODEL__FPN__NORM": "BN"},
}


@pytest.mark.slow
@pytest.mark.parametrize("options", BACKBONES.values(), ids=BACKBONES)
def test_equals_autograd_at_every_level(options):
    backbone = make_backbone(**options)
    both = Both(backbone)
    assert len(both.sizes) == 5
    for name, size in both.sizes.items():
        for window in windows_on(size):
            assert both.worst_difference({name: window}) < 1e-12, (name, window.top, window.left)


@pytest.mark.parametrize("pyramid", ["retinanet", "faster_rcnn"])
def test_several_levels_at_once_are_the_sum(pyramid):
    backbone = make_backbone(18, pyramid)
    both = Both(backbone)
    cotangents = {
        name: list(windows_on(size, count=3))[index % 2] for index, (name, size) in enumerate(both.sizes.items())
    }
    assert both.worst_difference(cotangents) < 1e-12


def test_top_block_that_reads_the_pyramid():
    backbone = make_backbone(18)
    backbone.top_block.in_feature = "p5"
    backbone.top_block.p6 = nn.Conv2d(CHANNELS, CHANNELS, 3, 2, 1).double()
    both = Both(backbone)
    for name in ("p6", "p7"):
        assert both.worst_difference({name: next(windows_on(both.sizes[name]))}) < 1e-12


def test_tiny_backbone_of_the_demonstration():
    backbone = build_detector(load_config("retinanet_tiny")).eval().backbone.double()
    both = Both(backbone)
    for name, feature in both.features.items():
        values = torch.randn(2, feature.shape[1], 2, 2, dtype=torch.float64)
        assert both.worst_difference({name: Window(values, 1, 2)}) < 1e-12


@pytest.mark.slow
def test_windows_at_random():
    backbone = make_backbone(18, "faster_rcnn")
    both = Both(backbone)
    generator = torch.Generator().manual_seed(5)

    def draw(high):
        return int(torch.randint(high, (), generator=generator))

    for _ in range(15):
        cotangents = {}
        for name, (height, width) in both.sizes.items():
            if draw(2) or not cotangents:
                top, left = draw(height), draw(width)
                shape = (1, CHANNELS, 1 + draw(height - top), 1 + draw(width - left))
                cotangents[name] = Window(torch.randn(shape, generator=generator, dtype=torch.float64), top, left)
        assert both.worst_difference(cotangents) < 1e-12


@pytest.mark.slow
def test_only_what_is_reached_is_returned():
    image = torch.randn(1, 3, 640, 640, dtype=torch.float64)
    both = Both(make_backbone(18, "faster_rcnn"), image)
    cotangents = {"p2": Window(torch.randn(1, CHANNELS, 1, 1, dtype=torch.float64), 80, 80)}
    assert both.worst_difference(cotangents) < 1e-12
    window = both.engines[0].vjp(cotangents)
    assert 0 < window.top < window.bottom < 640
    assert 0 < window.left < window.right < 640
    trimmed = window.trimmed()  # and hardly more
    for side in ("top", "left", "bottom", "right"):
        assert abs(getattr(window, side) - getattr(trimmed, side)) < 32


def test_cotangents_are_not_changed():
    backbone = make_backbone(18)
    engine = WindowedBackbone(backbone)
    with engine.recording():
        backbone(IMAGE)
    window = Window(torch.randn(2, CHANNELS, 3, 3, dtype=torch.float64), 1, 1)
    before = window.values.clone()
    first, second = engine.vjp({"p3": window}), engine.vjp({"p3": window})
    assert torch.equal(window.values, before)
    assert torch.equal(first.values, second.values)


def test_updated_weights_are_seen():
    backbone = make_backbone(18)
    engine = WindowedBackbone(backbone)
    window = Window(torch.randn(1, CHANNELS, 3, 3, dtype=torch.float64), 1, 1)
    with engine.recording():
        backbone(IMAGE)
    before = engine.vjp({"p3": window})
    for parameter in backbone.parameters():
        parameter.data.mul_(1.1)  # .data: no version counter tells of it
    assert Both(backbone).worst_difference({"p3": window}) < 1e-12
    with engine.recording():
        backbone(IMAGE)
    assert not torch.allclose(engine.vjp({"p3": window}).values, before.values)


def test_bfloat16_is_close_and_only_close():
    backbone = make_backbone(18).float()
    image, window = IMAGE.float(), Window(torch.randn(2, CHANNELS, 3, 3), 4, 4)
    maps = []
    for dtype in (None, torch.bfloat16):
        engine = WindowedBackbone(backbone, dtype)
        with engine.recording():
            backbone(image)
        found = engine.vjp({"p3": window})
        assert found.values.dtype == torch.float32
        maps.append(found.values)
    assert not torch.allclose(maps[0], maps[1], rtol=1e-4)
    assert torch.corrcoef(torch.stack([one.flatten() for one in maps]))[0, 1] > 0.99


def test_nothing_is_left_behind_also_after_an_error():
    backbone = make_backbone(18)
    hooks = lambda: [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in backbone.modules()]  # noqa: E731
    before = hooks()
    engine = WindowedBackbone(backbone)
    with engine.recording():
        features = backbone(IMAGE)
        assert torch.is_grad_enabled()
    assert not any(feature.requires_grad for feature in features.values())
    assert hooks() == before
    with pytest.raises(RuntimeError, match="channels"), engine.recording():
        backbone(IMAGE[:, :2])
    assert hooks() == before
    assert torch.is_grad_enabled()


def test_vjp_without_a_forward_pass_is_refused():
    with pytest.raises(RuntimeError, match="Expected a recorded forward pass of the backbone"):
        WindowedBackbone(make_backbone(18)).vjp({"p3": Window(torch.zeros(1, CHANNELS, 1, 1))})


# What it does not know ------------------------------------------------------------------------------------------------


class OtherConv(nn.Conv2d):
    def forward(self, pixels):
        return super().forward(pixels).sin()


def group_norm(backbone):
    backbone.bottom_up.res3[0].conv2.norm = nn.GroupNorm(1, 128)


def training_norm(backbone):
    backbone.bottom_up.res4[1].conv1.norm.train()


def other_conv(backbone):
    backbone.fpn_output4.__class__ = OtherConv


def dilation(backbone):
    backbone.bottom_up.res5[1].conv2.dilation = (2, 2)


def groups(backbone):
    backbone.bottom_up.res5[1].conv2.groups = 2


def activation(backbone):
    backbone.bottom_up.res2[1].conv2.activation = torch.sigmoid


def other_block(backbone):
    kind = type(backbone.bottom_up.res2[1])
    backbone.bottom_up.res2[1].__class__ = type("MyBlock", (kind,), {"forward": lambda self, x: x})


def other_stem(backbone):
    kind = type(backbone.bottom_up.stem)
    backbone.bottom_up.stem.__class__ = type("MyStem", (kind,), {"forward": lambda self, x: x})


def other_top(backbone):
    backbone.top_block = nn.Identity()


def other_resnet(backbone):
    backbone.bottom_up = nn.Identity()


UNKNOWN = {
    group_norm: r"bottom_up\.res3\.0\.conv2 is followed by GroupNorm",
    training_norm: r"bottom_up\.res4\.1\.conv1 is followed by BatchNorm2d",
    other_conv: r"backbone\.output_convs\.1 is a OtherConv",
    dilation: r"bottom_up\.res5\.1\.conv2 has kernel .* dilation \(2, 2\)",
    groups: r"bottom_up\.res5\.1\.conv2 has .* 2 groups",
    activation: r"bottom_up\.res2\.1\.conv2 has an activation",
    other_block: r"bottom_up\.res2\.1 is a MyBlock",
    other_stem: r"bottom_up\.stem is a MyStem",
    other_top: r"top_block is a Identity",
    other_resnet: r"bottom_up is a Identity, not a ResNet",
}


@pytest.fixture(scope="module")
def small():
    return make_backbone(18, calibrate=False)


@pytest.mark.parametrize("change", UNKNOWN, ids=lambda change: change.__name__)
def test_a_part_of_another_kind_is_refused_by_name(change, small):
    WindowedBackbone(small)  # known before
    changed = copy.deepcopy(small)
    change(changed)
    with pytest.raises(UnsupportedModelError, match=UNKNOWN[change]):
        WindowedBackbone(changed)


def test_another_backbone_is_refused():
    with pytest.raises(UnsupportedModelError, match="backbone is a Identity, not an FPN"):
        WindowedBackbone(nn.Identity())


# The arithmetic of windows, by hand -----------------------------------------------------------------------------------


def test_window_is_trimmed_to_what_is_not_zero():
    values = torch.zeros(2, 1, 5, 6)
    values[0, 0, 1, 2] = values[1, 0, 3, 4] = 1
    trimmed = Window(values, 10, 20).trimmed()
    assert (trimmed.top, trimmed.left, trimmed.bottom, trimmed.right) == (11, 22, 14, 25)
    assert Window(torch.zeros(1, 1, 4, 4), 3, 3).trimmed().values.shape == (1, 1, 1, 1)


def test_boxes():
    box = Box(1, 2, 4, 6)
    assert box.area == 12
    assert box.grown(2, (5, 7)) == (0, 0, 5, 7)
    assert Box.around([box, Box(0, 3, 2, 9)]) == (0, 2, 4, 9)
    assert box.holds(Box(1, 2, 2, 3))
    assert not box.holds(Box(0, 2, 2, 3))


def test_cells_with_gaps():
    cells = StridedWindow(torch.arange(1.0, 7).view(1, 2, 3, 1), 2, 4, step=2)
    assert cells.box == (2, 4, 5, 9)
    total = summed([cells, StridedWindow(torch.full((1, 1, 1, 1), 10.0), 2, 4)], Box(1, 4, 5, 9))[0, :, :, 0]
    assert total.tolist() == [[0] * 5, [11, 0, 2, 0, 3], [0] * 5, [4, 0, 5, 0, 6]]
    assert cells.part(Box(3, 5, 5, 9)).flatten().tolist() == [5, 6]
    assert cells.part(Box(0, 0, 3, 5)).flatten().tolist() == [1]


def test_clipping_to_the_map():
    cells = clipped(torch.arange(9.0).view(1, 3, 3, 1), -1, 3, (4, 5))
    assert (cells.top, cells.left) == (0, 3)
    assert cells.values.flatten().tolist() == [3, 4, 6, 7]


@pytest.mark.parametrize("pyramid", ["retinanet", "faster_rcnn"])
def test_each_image_of_a_batch_has_its_own_record(pyramid):
    backbone, alone = make_backbone(18, pyramid), []
    images, batch = torch.cat([IMAGE, -IMAGE]), WindowedBackbone(backbone)
    with batch.recording():
        features = backbone(images)
    for index in range(2):
        alone.append(WindowedBackbone(backbone))
        with alone[-1].recording():
            backbone(images[index : index + 1])
    for name, feature in features.items():
        cotangents = {name: list(windows_on(feature.shape[2:]))[-1]}
        one, other = (engine.vjp(cotangents).values for engine in alone)
        assert not torch.allclose(one, other)
        for images in ((0,), (1,), (0, 1), (1, 0), (1, 1, 0)):
            window = cotangents[name]
            repeated = Window(window.values.repeat(len(images), 1, 1, 1), window.top, window.left, images)
            found = batch.vjp({name: repeated})
            assert found.images == images
            for values, image in zip(found.values.split(len(window.values)), images, strict=True):
                expected = (one, other)[image]
                assert (values - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_scratch_memory_keeps_the_last_two():
    scratch, like = Scratch(), torch.zeros(0)
    first, second = scratch.zeros((2, 3), like), scratch.zeros((4,), like)
    first.fill_(1), second.fill_(2)
    assert (first == 1).all()
    third = scratch.zeros((1, 6), like)  # in the memory of the first
    assert third.data_ptr() == first.data_ptr()
    assert not third.any()
    assert (second == 2).all()
    assert scratch.zeros((2,), torch.zeros(0, dtype=torch.float64)).dtype == torch.float64
