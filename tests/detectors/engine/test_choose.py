"""Which engine runs, and why."""

import types

import pytest
import torch
from detectron2.modeling import GeneralizedRCNN, RetinaNet
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import StandardROIHeads
from torch import nn

from odsg_lightning.detectors.build import build_detector, load_config
from odsg_lightning.detectors.detectron2 import Detectron2Adapter
from odsg_lightning.detectors.engine.choose import choose_engine
from odsg_lightning.saliency.protocol import EngineChoice, LinearizingDetector


@pytest.fixture
def retinanet():
    return build_detector(load_config("retinanet_tiny")).eval()


@pytest.fixture
def faster_rcnn():
    return build_detector(load_config("faster_rcnn_tiny")).eval()


class OtherBackbone(nn.Module):
    """Not an FPN."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.size_divisibility = inner.size_divisibility

    def forward(self, x):
        return self.inner(x)


@pytest.mark.parametrize(
    ("engine", "precision", "known", "expected"),
    [
        ("auto", "full", True, ("windowed", "full", "knows every part of the backbone")),
        ("auto", "bf16", True, ("windowed", "bf16", "knows every part of the backbone")),
        ("windowed", "full", True, ("windowed", "full", "knows every part of the backbone")),
        ("auto", "full", False, ("cut", "full", "backbone is a OtherBackbone")),
        ("windowed", "bf16", False, ("cut", "full", "bf16 is for the windowed engine alone")),
        ("cut", "full", True, ("cut", "full", "was asked for")),
        ("cut", "bf16", True, ("cut", "full", "bf16 is for the windowed engine alone")),
        ("autograd", "full", True, ("autograd", "full", "was asked for")),
        ("autograd", "bf16", True, ("autograd", "full", "bf16 is for the windowed engine alone")),
    ],
)
def test_what_runs(faster_rcnn, engine, precision, known, expected):
    if not known:
        faster_rcnn.backbone = OtherBackbone(faster_rcnn.backbone)
    choice = Detectron2Adapter(faster_rcnn).choose_engine(engine, precision)
    assert (choice.name, choice.precision) == expected[:2]
    assert expected[2] in choice.reason


@pytest.mark.parametrize(
    ("engine", "precision", "expected"),
    [
        ("auto", "full", ("windowed", "full", 0.001, "knows every part of the backbone")),
        ("windowed", "bf16", ("windowed", "bf16", 0.001, "knows every part of the backbone")),
        ("cut", "full", ("cut", "full", 0, "asked for; trimming is for the windowed engine alone")),
        ("cut", "bf16", ("cut", "full", 0, "asked for; bf16 and trimming are for the windowed engine alone")),
        ("autograd", "full", ("autograd", "full", 0, "asked for; trimming is for the windowed engine alone")),
    ],
)
def test_the_windowed_engine_alone_trims(retinanet, engine, precision, expected):
    choice = Detectron2Adapter(retinanet).choose_engine(engine, precision, 0.001)
    assert (choice.name, choice.precision, choice.trim) == expected[:3]
    assert choice.reason.endswith(expected[3])
    assert choice.approximate == (choice.name == "windowed")


def test_names_are_checked(retinanet):
    adapter, image = Detectron2Adapter(retinanet), torch.rand(3, 64, 64)
    for call in (adapter.choose_engine, lambda *names: adapter.linearize(image, engine=names[0], precision=names[1])):
        with pytest.raises(ValueError, match=r"Expected argument `engine` to be one of \('auto', .*but got 'fast'"):
            call("fast", "full")
        with pytest.raises(ValueError, match=r"Expected argument `precision` to be one of .*but got 'fp8'"):
            call("auto", "fp8")
    with pytest.raises(ValueError, match=r"Expected argument `trim` to be a number in \[0, 0.1\), but got 0.1"):
        adapter.choose_engine("auto", "full", 0.1)


def test_an_adapter_has_the_protocol(retinanet):
    adapter = Detectron2Adapter(retinanet)
    assert isinstance(adapter, LinearizingDetector)
    assert isinstance(adapter.choose_engine(), EngineChoice)


@pytest.mark.parametrize("engine", ["auto", "windowed", "cut", "autograd"])
def test_training_mode_and_half_precision_are_refused(retinanet, engine):
    image = torch.rand(3, 64, 64)
    with pytest.raises(RuntimeError, match="Expected the detector in eval mode"):
        Detectron2Adapter(retinanet.train()).linearize(image, engine=engine)
    with pytest.raises(RuntimeError, match=r"but got torch\.bfloat16"):
        Detectron2Adapter(retinanet.eval().bfloat16()).linearize(image, engine=engine)


class OtherRetinaNet(RetinaNet):
    def inference_single_image(self, *args):
        return super().inference_single_image(*args)


class OtherRcnn(GeneralizedRCNN):
    def preprocess_image(self, batched_inputs):
        return super().preprocess_image(batched_inputs)


class OtherRpn(RPN):
    def predict_proposals(self, *args):
        return super().predict_proposals(*args)


class OtherHeads(StandardROIHeads):
    def _forward_box(self, features, proposals):
        return super()._forward_box(features, proposals)


class TrainedOtherwise(StandardROIHeads):
    def label_and_sample_proposals(self, proposals, targets):
        return super().label_and_sample_proposals(proposals, targets)

    def _sample_proposals(self, *args):
        return super()._sample_proposals(*args)


class TestStructure:
    def refused(self, model, reason):
        for engine in ("auto", "windowed", "cut"):
            choice = choose_engine(model, engine).choice
            assert choice.name == "autograd"
            assert reason in choice.reason

    def test_a_model_with_its_own_inference(self, retinanet):
        retinanet.__class__ = OtherRetinaNet
        self.refused(retinanet, "a OtherRetinaNet with its own inference_single_image()")

    def test_a_model_with_its_own_preprocessing(self, faster_rcnn):
        faster_rcnn.__class__ = OtherRcnn
        self.refused(faster_rcnn, "a OtherRcnn with its own preprocess_image()")

    def test_an_instance_with_its_own_forward(self, retinanet):
        retinanet.forward = types.MethodType(RetinaNet.forward, retinanet)
        self.refused(retinanet, "a RetinaNet with its own forward()")

    def test_proposals_of_another_kind(self, faster_rcnn):
        faster_rcnn.proposal_generator.__class__ = OtherRpn
        self.refused(faster_rcnn, "model.proposal_generator, a OtherRpn with its own predict_proposals()")
        faster_rcnn.proposal_generator = None
        self.refused(faster_rcnn, "model.proposal_generator, a NoneType")

    def test_heads_of_another_kind(self, faster_rcnn):
        faster_rcnn.roi_heads.__class__ = OtherHeads
        self.refused(faster_rcnn, "model.roi_heads, a OtherHeads with its own _forward_box()")
        faster_rcnn.roi_heads = nn.Identity()
        self.refused(faster_rcnn, "model.roi_heads, a Identity")

    def test_no_predictor_and_several(self, faster_rcnn):
        faster_rcnn.roi_heads.box_predictor = nn.ModuleList([faster_rcnn.roi_heads.box_predictor])
        self.refused(faster_rcnn, "box_predictor, a ModuleList: not one stage")
        del faster_rcnn.roi_heads.box_predictor
        self.refused(faster_rcnn, "box_predictor, a NoneType: not one stage")

    def test_rotated_boxes(self, faster_rcnn):
        faster_rcnn.roi_heads.box_predictor.box2box_transform = types.SimpleNamespace(weights=(1, 1, 1, 1, 1))
        self.refused(faster_rcnn, "rotated boxes")

    def test_what_is_only_trained_in_another_way_is_known(self, faster_rcnn):
        faster_rcnn.roi_heads.__class__ = TrainedOtherwise
        assert choose_engine(faster_rcnn, "cut").choice.name == "cut"

    def test_a_change_is_seen_at_once(self, faster_rcnn):
        adapter = Detectron2Adapter(faster_rcnn)
        assert adapter.choose_engine().name == "windowed"
        faster_rcnn.backbone = OtherBackbone(faster_rcnn.backbone)
        assert adapter.choose_engine().name == "cut"
