"""The features of real detectors, against captum's layer attributions and plain hooks, in double precision."""

import pytest
import torch
from captum.attr import LayerGradCam, LayerGradientXActivation
from helpers.engine_cases import allow_double_nms, full_size, untouched

from odsg_lightning.detectors.detectron2 import Detectron2Adapter
from odsg_lightning.errors import UserInputError
from odsg_lightning.explainers.grad_cam import grad_cam
from odsg_lightning.explainers.odam import odam
from odsg_lightning.saliency.protocol import FeatureDetector
from odsg_lightning.types import Candidates

IMAGE = torch.rand(3, 90, 120, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 255
MODULES = {"p6": "top_block.p6", "p7": "top_block.p7"} | {f"p{level}": f"fpn_output{level}" for level in range(2, 6)}
BOXES = torch.tensor([[10.0, 12, 60, 70], [50, 5, 70, 30], [2, 3, 119, 89]])


@pytest.fixture(scope="module", params=["retinanet_R_50_FPN", "faster_rcnn_R_50_FPN"])
def adapter(request):
    return Detectron2Adapter(full_size(request.param).double())


@pytest.fixture(scope="module")
def outputs(adapter):
    with torch.no_grad():
        return adapter.outputs_of(adapter.candidates_for_objects(IMAGE, BOXES, torch.tensor([0, 2, 1])))


def numbers_of(outputs, index):
    alone = type(outputs)(outputs, outputs.candidates[[index]])

    def numbers(batch):
        (found,) = alone.detect(list(batch))
        return found.parameters

    return numbers


def test_captum_agrees_on_the_level_of_each_candidate(adapter, outputs):
    with untouched(adapter.model):
        looked = list(outputs.features(IMAGE, "level").of_candidates([0, 2], [0, 2, 4]))
    assert len({feature.layer for [feature] in looked}) > (1 if hasattr(adapter.model, "head") else 0)
    for index, [feature] in zip([0, 2], looked, strict=True):
        module = adapter.model.backbone.get_submodule(MODULES[feature.layer])
        numbers = numbers_of(outputs, index)
        for position, number in enumerate([0, 2, 4]):
            settings = {"inputs": IMAGE[None], "target": number}
            theirs = LayerGradCam(numbers, module).attribute(**settings, relu_attributions=True)[0, 0].detach()
            difference = (grad_cam(feature.activation, feature.gradients[position]) - theirs).abs().max()
            assert float(difference) <= 1e-12 * float(theirs.max())
            product = LayerGradientXActivation(numbers, module).attribute(**settings)[0].sum(dim=0).detach()
            assert float(product.abs().max()) > 0
            for sign, expected in (("positive", product.relu()), ("abs", product.abs())):
                difference = (odam(feature.activation, feature.gradients[position], sign) - expected).abs().max()
                assert float(difference) <= 1e-12 * float(product.abs().max())


def test_captum_agrees_on_res5(adapter, outputs):
    [[feature]] = outputs.features(IMAGE, "res5").of_candidates([0], [4])
    module, numbers = adapter.model.backbone.bottom_up.res5, numbers_of(outputs, 0)
    theirs = LayerGradCam(numbers, module).attribute(IMAGE[None], target=4)[0, 0].detach()
    ours = (feature.gradients[0].mean(dim=(1, 2), keepdim=True) * feature.activation).sum(dim=0)
    assert float((ours - theirs).abs().max()) <= 1e-12 * float(theirs.abs().max())


def test_all_layers_have_the_gradients_that_each_has_alone(adapter, outputs):
    [together] = outputs.features(IMAGE, "all").of_candidates([1], [0, 4])
    stages = {"res2", "res3", "res4", "res5"}
    assert {feature.layer for feature in together} == stages | {together[0].layer}
    for feature in together:
        [[alone]] = outputs.features(IMAGE, feature.layer).of_candidates([1], [0, 4])
        assert torch.equal(alone.activation, feature.activation)
        largest = float(feature.gradients.abs().max())
        torch.testing.assert_close(alone.gradients, feature.gradients, rtol=0, atol=1e-12 * largest)
        assert largest > 0
        height, width = (-(-size // 32) * 32 for size in IMAGE.shape[1:])  # as Detectron2 pads it
        assert (height + feature.stride - 1) // feature.stride == feature.activation.shape[1]
        assert (width + feature.stride - 1) // feature.stride == feature.activation.shape[2]


def test_the_input_is_a_layer_and_its_gradient_that_of_the_pixels(adapter, outputs):
    [[feature]] = outputs.features(IMAGE, "input").of_candidates([0], [4])
    [gradient] = outputs.linearize(IMAGE, engine="autograd").gradients([0])
    std = adapter.model.pixel_std
    ours = (feature.gradients[0] / std).flip(0)[:, :90, :120]
    torch.testing.assert_close(ours, gradient.values[4], rtol=1e-9, atol=1e-15)
    assert feature.stride == 1


def test_the_last_anchor_of_a_level_and_the_first_of_the_next():
    adapter = Detectron2Adapter(full_size("retinanet_R_50_FPN"))
    rows = torch.tensor([12 * 16 * 9 - 1, 12 * 16 * 9])  # 9 anchors at each cell of p3
    nothing = torch.full((2,), -1)
    outputs = adapter.outputs_of(Candidates(BOXES[:2], torch.tensor([0, 1]), rows, nothing))
    looked = outputs.features(IMAGE.float(), "level").of_candidates([0, 1], [4])
    assert [(feature.layer, bool(feature.gradients.any())) for [feature] in looked] == [("p3", True), ("p4", True)]


def test_another_level_has_no_gradient(outputs):
    [[own]] = outputs.features(IMAGE, "level").of_candidates([0], [4])
    other = next(name for name in outputs.layers if name.startswith("p") and name != own.layer)
    [[feature]] = outputs.features(IMAGE, other).of_candidates([0], [4])
    assert feature.layer == other
    assert not feature.gradients.any()


def test_an_unknown_layer_lists_those_there_are(adapter, outputs):
    assert isinstance(outputs, FeatureDetector)
    levels = ("p3", "p4", "p5", "p6", "p7") if hasattr(adapter.model, "head") else ("p2", "p3", "p4", "p5")
    assert outputs.layers == (*levels, "res2", "res3", "res4", "res5", "input")
    with pytest.raises(UserInputError, match=r"'level', 'all' or one of \('p.', .*'res5', 'input'\), but got 'C5'"):
        outputs.features(IMAGE, "C5")


def test_a_detector_without_a_pyramid_has_one_level():
    adapter = Detectron2Adapter(full_size("faster_rcnn_R_50_C4"))
    image = IMAGE[:, :64, :96].float()
    outputs = adapter.outputs_of(adapter.candidates_for_objects(image, BOXES[:1], torch.tensor([0])))
    assert outputs.layers == ("res4", "res2", "res3", "input")
    [features] = outputs.features(image, "all").of_candidates([0], [4])
    assert [(one.layer, one.stride) for one in features] == [("res4", 16), ("res2", 4), ("res3", 8)]
    assert all(one.gradients.any() for one in features)


def test_a_rival_is_the_best_other_class(adapter, outputs):
    with torch.no_grad():
        rivals = outputs.rivals(IMAGE)
        (found,) = rivals.detect([IMAGE])
        for label in range(3):
            asked = torch.full((3,), label)
            candidates = Candidates(
                outputs.candidates.regions, asked, outputs.candidates.rows, torch.full_like(asked, -1)
            )
            (other,) = adapter.outputs_of(candidates).detect([IMAGE])
            others = outputs.candidates.labels != label
            assert (found.scores >= other.scores)[others].all()
            assert torch.equal(found.scores[found.labels == label], other.scores[found.labels == label])
    assert (found.labels != outputs.candidates.labels).all()


def test_a_detector_of_one_class_has_no_rival(adapter, outputs, monkeypatch):
    monkeypatch.setattr(adapter.model if hasattr(adapter.model, "head") else adapter.model.roi_heads, "num_classes", 1)
    with pytest.raises(UserInputError, match="Expected a detector of several classes, but this one has one"):
        outputs.rivals(IMAGE)


def test_proposals_hold_every_detection_with_all_its_probabilities(adapter, monkeypatch):
    allow_double_nms(monkeypatch)
    decoder = adapter.model if hasattr(adapter.model, "head") else adapter.model.roi_heads.box_predictor
    monkeypatch.setattr(decoder, "test_score_thresh", 0.01)
    images = [IMAGE, IMAGE.flip(2)]
    with torch.no_grad():
        together, detections = adapter.proposals(images), adapter.detect(images)
    for image, found, detected in zip(images, together, detections, strict=True):
        [alone] = adapter.proposals([image])
        torch.testing.assert_close(found.boxes, alone.boxes)
        torch.testing.assert_close(found.probabilities, alone.probabilities)
        assert found.probabilities.shape[1] == 3
        best, label = found.probabilities.max(dim=1)
        assert (best > 0.01).all()
        seen = 0
        for box, score, kind in zip(detected.boxes, detected.scores, detected.labels, strict=True):
            rows = (best - score).abs() + (label != kind) < 1e-6
            if rows.any():
                seen += 1
                assert (found.boxes[rows] - box).abs().amax(dim=1).min() < 1e-3
        assert seen >= 1
        assert len(best) > len(detected)
