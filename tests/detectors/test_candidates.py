"""Logits and unclipped boxes of fixed anchors and regions of interest, on real detectors in double precision."""

import pytest
import torch
from captum.attr import Saliency
from helpers.engine_cases import (
    allow_double_nms,
    assert_as_plain_autograd,
    cut_through,
    finding_much,
    first,
    full_size,
    on_image,
    unclipped,
    untouched,
)
from helpers.known_detectors import IMAGE, LinearDetector, two_objects

from odsg_lightning.detectors.detectron2 import Detectron2Adapter
from odsg_lightning.detectors.resolve import resolve_adapter
from odsg_lightning.errors import UserInputError
from odsg_lightning.saliency.protocol import CandidateDetector
from odsg_lightning.saliency.smoothgrad import smoothgrad
from odsg_lightning.types import Candidates


@pytest.fixture(autouse=True)
def _double_nms(monkeypatch):
    allow_double_nms(monkeypatch)


@pytest.fixture(params=["trained_retinanet", "trained_faster_rcnn"])
def trained(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def adapter(trained):
    return Detectron2Adapter(finding_much(trained.model))


@pytest.fixture
def image(adapter, trained):
    """The side of a picture, up to the middle of an object: some boxes are clipped, some are not."""

    def some_are_clipped(image):
        (found,) = adapter.detect([image])
        return 0 < len(unclipped(found, image)) < len(found)

    with torch.no_grad():
        return first(map(cut_through, trained.samples), some_are_clipped)


def asked(regions, labels, rows, against=None):
    labels = torch.tensor(labels)
    nothing = torch.full_like(labels, -1)
    return Candidates(regions, labels, torch.tensor(rows), nothing if against is None else torch.tensor(against))


def clipped(boxes, image):
    height, width = image.shape[1:]
    return torch.stack([boxes[:, i].clamp(0, (width, height)[i % 2]) for i in range(4)], dim=1)


@pytest.mark.slow
class TestTrained:
    def test_each_detection_is_followed_to_its_anchor_or_region(self, adapter, image):
        with untouched(adapter.model):
            found, candidates = adapter.candidates_of_detections(image)
        outputs = adapter.outputs_of(candidates)
        with torch.no_grad():
            (numbers,) = outputs.detect([image])
            (again,) = adapter.detect([image])
        assert found == again
        assert len(found) == len(candidates) > 3
        torch.testing.assert_close(clipped(numbers.boxes, image), found.boxes, rtol=0, atol=1e-9)
        torch.testing.assert_close(outputs.probabilities(image), found.scores, rtol=0, atol=1e-9)
        assert torch.equal(numbers.labels, found.labels)

    @pytest.mark.parametrize("engine", ["cut", "windowed"])
    def test_every_engine_as_plain_autograd(self, adapter, image, engine):
        _, candidates = adapter.candidates_of_detections(image)
        outputs = adapter.outputs_of(candidates)
        assert outputs.choose_engine(engine).name == engine
        with untouched(adapter.model):
            assert_as_plain_autograd(outputs, image, range(0, len(candidates), 3), engine=engine)

    def test_captum_agrees_for_logits_and_unclipped_coordinates(self, adapter, image):
        _, candidates = adapter.candidates_of_detections(image)
        outputs = adapter.outputs_of(candidates[[1]])

        def numbers(batch):
            (found,) = outputs.detect(list(batch))
            return found.parameters

        (gradient,) = outputs.linearize(image, engine="windowed").gradients([0])
        maps = on_image(gradient, image).abs().amax(dim=1)
        for number, expected in enumerate(maps):
            other = Saliency(numbers).attribute(image[None], target=number, abs=True)[0].amax(dim=0)
            assert float((expected - other).abs().max()) <= 1e-6 * float(other.max())

    def test_a_coordinate_is_the_chain_rule_through_the_deltas(self, adapter, image):
        """x_min = dx w + centre - exp(dw) w / 2, of the region's width w, with Detectron2's weights of the deltas."""
        _, candidates = adapter.candidates_of_detections(image)
        outputs = adapter.outputs_of(candidates[[0]])
        predictor = getattr(adapter.model, "roi_heads", None)
        transform = (adapter.model if predictor is None else predictor.box_predictor).box2box_transform
        pixels = image.clone().requires_grad_()
        _, deltas = outputs._numbers(pixels, None)
        label = int(candidates.labels[0])
        dx, _, dw, _ = deltas[0].reshape(-1, 4)[label if deltas.shape[1] > 4 else 0] / deltas.new_tensor(
            transform.weights
        )
        x_1, _, x_2, _ = candidates.regions[0].double().tolist()
        width = x_2 - x_1
        by_dx, by_dw = (torch.autograd.grad(number, pixels, retain_graph=True)[0] for number in (dx, dw))
        expected = by_dx * width - by_dw * dw.detach().exp() * width / 2
        (found,) = outputs.detect([pixels])
        (got,) = torch.autograd.grad(found.boxes[0, 0], pixels)
        # Detectron2 decodes in single precision, whatever it is given.
        assert float((got - expected).abs().max()) <= 1e-6 * float(expected.abs().max())

    def test_a_clipped_coordinate_is_defined(self, adapter, image):
        found, candidates = adapter.candidates_of_detections(image)
        index = next(i for i in range(len(found)) if i not in unclipped(found, image))
        side = next(i for i in range(4) if _at_border(found.boxes[index, i], i, image))
        settings = {"n_samples": 1, "sigma": 0.0}
        (before,) = smoothgrad(adapter, image, found, [index], generator=torch.Generator(), **settings)
        outputs = adapter.outputs_of(candidates)
        (reference,) = outputs.detect([image])
        settings |= {"match_iou": None, "generator": torch.Generator()}
        (after,) = smoothgrad(outputs, image, reference.detach(), [index], **settings)
        assert before.maps[side].isnan().all()
        assert not after.maps.isnan().any()
        assert after.maps[side].max() > 0

    def test_a_saturated_score_is_defined(self, trained):
        """In single precision a sigmoid or a softmax is 1 from a logit of 17 on: its gradient is zero."""
        adapter = Detectron2Adapter(trained.model)
        image = trained.samples[0].image
        layer = getattr(adapter.model, "head", None)
        layer = layer.cls_score if layer is not None else adapter.model.roi_heads.box_predictor.cls_score
        before = layer.bias.data.clone()
        try:
            per_place = 3 if hasattr(adapter.model, "head") else 4  # classes of each anchor; with the background
            layer.bias.data[::per_place] += 200.0
            found, candidates = adapter.candidates_of_detections(image)
            saturated = next(i for i in range(len(found)) if found.scores[i] == 1)
            linearization = adapter.linearize(image, engine="autograd")
            (score,) = linearization.gradients([saturated])
            (logit,) = adapter.outputs_of(candidates[[saturated]]).linearize(image).gradients([0])
        finally:
            layer.bias.data.copy_(before)
        assert not score.values[4].any()
        assert logit.values[4].any()

    def test_another_class_of_the_same_anchor_and_the_difference_of_two(self, adapter, image):
        _, candidates = adapter.candidates_of_detections(image)
        own = candidates[[0]]
        label = int(own.labels[0])
        other = (label + 1) % 3
        gradients = []
        for labels, against in (([label], None), ([other], None), ([label], [other])):
            outputs = adapter.outputs_of(asked(own.regions, labels, own.rows.tolist(), against))
            (gradient,) = outputs.linearize(image).gradients([0])
            gradients.append(on_image(gradient, image)[4])
        mine, others, difference = gradients
        largest = float(difference.abs().max())
        assert largest > 0
        torch.testing.assert_close(mine - others, difference, rtol=0, atol=1e-9 * largest)
        assert not torch.allclose(mine, others)

    def test_all_candidates_above_a_threshold(self, adapter, image):
        found, survivors = adapter.candidates_of_detections(image)
        with untouched(adapter.model):
            candidates = adapter.confident_candidates(image, 0.05)
        scores = adapter.outputs_of(candidates).probabilities(image)
        assert (scores > 0.05).all()
        assert torch.equal(scores, scores.sort(descending=True).values)
        everyone = {
            (label, *map(round, box))
            for label, box in zip(candidates.labels.tolist(), candidates.regions.tolist(), strict=True)
        }
        for index in (found.scores > 0.05).nonzero().flatten().tolist():
            assert (int(survivors.labels[index]), *map(round, survivors.regions[index].tolist())) in everyone
        assert len(candidates) > int((found.scores > 0.05).sum())  # suppression left some out


def _at_border(coordinate, side, image):
    return float(coordinate) in (0.0, float(image.shape[2 - side % 2]))


@pytest.mark.parametrize("name", ["retinanet_R_50_FPN", "faster_rcnn_R_50_FPN"])
class TestUntrained:
    def test_every_object_has_maps_before_anything_is_learned(self, name):
        adapter = Detectron2Adapter(full_size(name))
        image = torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(1)) * 255
        boxes, labels = torch.tensor([[10.0, 12, 60, 70], [50, 5, 127, 90]]), torch.tensor([0, 2])
        candidates = adapter.candidates_for_objects(image, boxes, labels)
        assert torch.equal(candidates.labels, labels)
        outputs = adapter.outputs_of(candidates)
        (reference,) = outputs.detect([image])
        settings = {"n_samples": 2, "match_iou": None, "generator": torch.Generator()}
        for saliency in smoothgrad(outputs, image, reference.detach(), [0, 1], **settings):
            assert saliency.matched_samples == 2
            assert not saliency.maps.isnan().any()

    def test_the_candidate_of_an_object_does_not_depend_on_the_weights(self, name):
        image, boxes = torch.rand(3, 96, 128) * 255, torch.tensor([[10.0, 12, 60, 70]])
        found = []
        for seed in range(2):
            model = full_size(name)
            torch.manual_seed(seed)
            for parameter in model.parameters():
                parameter.data.add_(0.01 * torch.randn_like(parameter))
            found.append(Detectron2Adapter(model).candidates_for_objects(image, boxes, torch.tensor([1])))
        assert found[0] == found[1]

    def test_no_objects_no_candidates(self, name):
        adapter = Detectron2Adapter(full_size(name))
        none = adapter.candidates_for_objects(torch.zeros(3, 64, 64), torch.zeros(0, 4), torch.zeros(0).long())
        assert len(none) == 0
        (found,) = adapter.outputs_of(none).detect([torch.zeros(3, 64, 64)])
        assert len(found) == 0

    def test_an_unknown_class_is_refused(self, name):
        adapter = Detectron2Adapter(full_size(name))
        for labels, against in (([3], None), ([0], [3])):
            with pytest.raises(UserInputError, match="Expected classes from 0 to 2, but got"):
                adapter.outputs_of(asked(torch.zeros(1, 4), labels, [0], against))


def test_a_head_of_several_stages_is_refused():
    adapter = Detectron2Adapter(full_size("faster_rcnn_R_50_FPN"))
    adapter.model.roi_heads.box_predictor = torch.nn.ModuleList([adapter.model.roi_heads.box_predictor])
    with pytest.raises(UserInputError, match="target='output' explains what it returns"):
        adapter.candidates_for_objects(torch.zeros(3, 64, 64), torch.zeros(0, 4), torch.zeros(0).long())


def test_a_detector_of_ones_own_has_candidates_if_it_says_so():
    assert not isinstance(resolve_adapter(LinearDetector(*two_objects())), CandidateDetector)
    assert isinstance(Detectron2Adapter(full_size("retinanet_R_50_FPN")), CandidateDetector)


def test_without_matching_the_order_decides():
    """Boxes that move too far to be matched are still the same objects."""

    class Moving(LinearDetector):
        def detect(self, images):
            (found,) = super().detect(images)
            shift = 100.0 * (images[0].mean() - 128)
            return [type(found)(found.boxes + shift, found.scores, found.labels)]

    detector = Moving(*two_objects())
    (reference,) = detector.detect([IMAGE])
    for match_iou, matched in ((0.7, 0), (None, 4)):
        settings = {"n_samples": 4, "sigma": 0.2, "match_iou": match_iou, "generator": torch.Generator()}
        found = smoothgrad(detector, IMAGE, reference.detach(), [1, 0], **settings)
        assert [saliency.matched_samples for saliency in found] == [matched, matched]
