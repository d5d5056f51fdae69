"""One image: the same objects for every method, values that are known, on detectors that are known and on real ones."""

import math

import pytest
import torch
from helpers.candidates import WithLogits
from helpers.engine_cases import first
from helpers.known_detectors import LinearDetector, box_sample
from helpers.known_module import TWO

from odsg_lightning.audit.isolation import isolated
from odsg_lightning.comparison.controls import CentreMap, RandomMap
from odsg_lightning.comparison.loop import CompareConfig, compare_image
from odsg_lightning.comparison.measures import CONTROLS, MEASURES, SMOOTHGRAD_OUTPUT
from odsg_lightning.comparison.measuring import Hiding, map_values
from odsg_lightning.comparison.methods import Method, make_methods
from odsg_lightning.detectors.detectron2 import Detectron2Adapter
from odsg_lightning.errors import UserInputError
from odsg_lightning.names import EXPLAINERS, PARAMETERS
from odsg_lightning.types import Detections, ObjectSaliency

SMALL = {"n_samples": 2, "n_masks": 16}


class Fixed:
    """Gives known maps, and remembers what it was asked."""

    parameters, samples = PARAMETERS, 1

    def __init__(self, maps):
        self.maps, self.asked = maps, []

    def explain(self, detector, image, reference, indices, *, generator, match_iou=0.7, on_sample=None):
        self.asked.append((detector, reference[list(indices)], torch.rand(1, generator=generator).item(), match_iou))
        return [ObjectSaliency(self.maps[row], 1, 1) for row in range(len(indices))]


def known(**settings):
    """Two objects of a linear detector, found where they are, with logits behind them."""
    detector = WithLogits()
    detector.base = torch.cat([torch.tensor(TWO, dtype=torch.float64), torch.tensor([[0.9], [0.8]])], 1)
    detector.weights = torch.zeros_like(detector.weights, **settings)
    return detector, box_sample(TWO, [0, 1])


def one_pixel(y, x, size=24):
    maps = torch.zeros(2, 5, size, size)
    maps[:, :, y, x] = 1
    return maps


def compared(detector, sample, methods, steps=None, **settings):
    sample = sample.__class__(**{**vars(sample), "image": sample.image.double()})
    return compare_image(detector, sample, methods, CompareConfig(steps), **settings)


def test_values_of_a_single_pixel_are_those_by_hand():
    detector, sample = known()
    image = compared(detector, sample, [Method("own", Fixed(one_pixel(4, 4)), False, "own")])
    first_object, second = (one.values["own"] for one in image.objects)
    # Inside the first box, 2 to 12, outside of the second, 10 to 22 by 8 to 20.
    expected = {"energy_mask": 1, "energy_box": 1, "pointing_mask": 1, "pointing_box": 1, "ties": 0}
    assert {key: first_object[key] for key in expected} == expected
    assert {key: second[key] for key in expected} == dict.fromkeys(expected, 0)
    assert (first_object["odi"], second["odi"]) == (0, 1)
    assert first_object["compactness"] == second["compactness"] == 0
    assert first_object["accuracy"] == pytest.approx(1 / 100)
    assert second["accuracy"] == 0
    assert second["iof"] == 0
    # x_min and y_min: 2.5 pixels of 10 from their own edge; x_max and y_max: 7.5.
    assert first_object["box/position"] == second["box/position"] == pytest.approx(0.5)
    assert (image.objects[0].score, image.objects[0].iou, image.missed) == (0.9, 1, ())


def test_only_maps_of_the_box_count_for_the_box():
    _, sample = known()
    maps = one_pixel(4, 4)
    maps[:, :4] = math.nan
    (values, _) = map_values(maps, sample, [0, 1])
    assert values["energy_mask"] == 1
    assert {values[measure.key] for measure in MEASURES if measure.of_box} == {None}


def test_deletion_and_insertion_by_hand():
    class Corner:
        calls = 0

        def detect(self, images):
            self.calls += len(images)
            box, label = torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([0])
            return [Detections(box, image[0, 0, :1] / 255, label) for image in images]

    detector, image = Corner(), torch.zeros(3, 96, 96)
    image[:, :2, :2] = 255.0
    (detections,) = detector.detect([image])
    maps = torch.zeros(1, 96, 96)
    maps[0, 0, 0] = 1
    hiding, detector.calls = Hiding(detector, image, detections, 2), 0
    (values,) = hiding.values(maps)
    # After half of the pixels, and after all, the blur leaves b of the corner: 1, b, b; and b, 1, 1.
    left = (values["deletion"] - 0.25) / 0.75
    assert 0 < left < 0.01
    assert values["insertion"] == pytest.approx(0.75 + 0.25 * left, abs=1e-5)
    calls = detector.calls
    hiding.values(maps.clone())
    assert detector.calls == calls > 0  # the same map is asked once
    assert hiding.values(maps * math.nan) == [{"deletion": None, "insertion": None}]


def test_every_method_is_asked_of_the_same_objects_with_the_same_random_numbers():
    detector, sample = known()
    logits, output, other = (Fixed(one_pixel(4, 4)) for _ in range(3))
    methods = [Method("a", logits, False, "a"), Method("b", output, True, "b"), Method("c", other, False, "c")]
    compared(detector, sample, methods)
    (of_logits,), (of_output,), (of_other,) = logits.asked, output.asked, other.asked
    assert of_output[0] is detector
    assert of_logits[0] is of_other[0] is not detector
    assert of_logits[1] == of_other[1]
    assert torch.equal(of_logits[1].labels, of_output[1].labels)
    assert of_logits[1].scores.tolist() == [0.9, 0.8]  # probabilities of the candidates
    assert of_logits[2] == of_output[2] == of_other[2]
    assert (of_logits[3], of_output[3]) == (None, 0.7)


def test_the_order_turns_and_changes_nothing():
    detector, sample = known()
    order = []

    class Noting(Fixed):
        def explain(self, *args, **settings):
            order.append(self)
            return super().explain(*args, **settings)

    methods = [Method(str(index), Noting(one_pixel(index, 4)), False, str(index)) for index in range(3)]
    results = [compared(detector, sample, methods, turn=turn) for turn in range(4)]
    firsts = [methods.index(next(m for m in methods if m.explainer is one)) for one in order[::3]]
    assert firsts == [0, 1, 2, 0]
    assert all(result.objects == results[0].objects for result in results)


def test_undefined_maps_are_counted_and_without_values():
    detector, sample = known()
    maps = one_pixel(4, 4)
    maps[0, 4] = math.nan
    maps[1, :2] = 0
    image = compared(detector, sample, [Method("own", Fixed(maps), False, "own")])
    assert [one.undefined["own"] for one in image.objects] == [1, 2]
    values = image.objects[0].values["own"]
    assert {value for key, value in values.items() if not key.startswith("box/")} == {None}


def test_what_cannot_explain_the_detector_is_left_out_with_the_reason():
    detector, sample = known()
    image = compared(detector, sample, make_methods(**SMALL))
    kept = ["smoothgrad", SMOOTHGRAD_OUTPUT, "gradient", "d_rise", *CONTROLS]
    assert sorted(image.objects[0].values) == sorted(kept)
    assert set(image.left_out) == set(EXPLAINERS) - set(kept)
    assert all("features can be looked at" in why for why in image.left_out.values())


def test_a_detector_without_logits_is_explained_as_it_returns():
    base = torch.cat([torch.tensor(TWO, dtype=torch.float64), torch.tensor([[0.9], [0.8]])], 1)
    weights = 1e-6 * torch.ones(2, 5, 3, 24, 24, dtype=torch.float64)
    detector = LinearDetector(base, weights, torch.tensor([0, 1]))
    image = compared(detector, box_sample(TWO, [0, 1]), make_methods(["smoothgrad", "odam", "d_rise"], **SMALL))
    assert set(image.objects[0].values) == {SMOOTHGRAD_OUTPUT, "d_rise"}
    assert "returns detections alone" in image.left_out["smoothgrad"]


def test_no_detection_is_an_image_without_objects():
    detector, sample = known()
    detector.base[:, 4] = 0.1
    asked = Fixed(one_pixel(4, 4))
    image = compared(detector, sample, [Method("own", asked, False, "own")])
    assert (image.objects, image.missed, asked.asked) == ((), (1, 2), [])


def test_controls_know_the_box_alone():
    boxes = Detections(torch.tensor([[4.0, 8, 12, 24]]), torch.ones(1), torch.zeros(1, dtype=torch.int64))
    image = torch.zeros(3, 40, 40)
    [centre] = CentreMap().explain(None, image, boxes, [0], generator=torch.Generator())
    rows, columns = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(40) + 0.5, indexing="ij")
    bell = (-0.5 * (((columns - 8) / 2) ** 2 + ((rows - 16) / 4) ** 2)).exp()
    assert all(torch.allclose(one, bell, atol=1e-6) for one in centre.maps)
    draws = [
        RandomMap().explain(None, image, boxes, [0], generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)
    ]
    assert draws[0] == draws[1] != draws[2]
    assert not torch.equal(draws[0][0].maps[0], draws[0][0].maps[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ["odam", "grad-cam"]}, "any of smoothgrad, gradient, .*, but got 'grad-cam'"),
        ({"n_masks": 0}, "`n_masks`"),
        ({"n_samples": 0}, "`n_samples`"),
    ],
)
def test_what_cannot_be_made_is_refused(arguments, message):
    with pytest.raises(UserInputError, match=message):
        make_methods(**arguments)


def test_box_maps_are_asked_wherever_they_can_be_made():
    usual = {method.name: method.explainer.parameters for method in make_methods()}
    asked = {method.name: method.explainer.parameters for method in make_methods(box_maps=True)}
    assert usual["layer_cam"] == asked["d_rise"] == asked["contrastive_lrp"] == asked["det_grad_cam"] == ("score",)
    assert asked["layer_cam"] == asked["lrp"] == asked["smoothgrad"] == PARAMETERS


@pytest.mark.parametrize("steps", [0, -1, 2.5])
def test_steps_out_of_range_are_refused(steps):
    with pytest.raises(UserInputError, match="`steps`"):
        CompareConfig(steps)


@pytest.mark.slow
@pytest.mark.parametrize("trained", ["trained_retinanet", "trained_faster_rcnn"])
def test_every_explainer_explains_a_trained_detector(trained, request):
    trained = request.getfixturevalue(trained)
    detector, config, calls = Detectron2Adapter(trained.model), CompareConfig(2), []
    with isolated(trained.model):
        controls = make_methods([])
        sample = first(trained.samples, lambda one: compare_image(detector, one, controls, CompareConfig(None)).objects)
        image = compare_image(
            detector, sample, make_methods(**SMALL), config, with_pictures=True, on_method=lambda: calls.append(1)
        )
    assert image.left_out == {}
    assert len(calls) == len(EXPLAINERS) + 3
    for one in image.objects:
        assert set(one.values) == {*EXPLAINERS, SMOOTHGRAD_OUTPUT, *CONTROLS}
        assert one.values["odam"]["deletion"] == one.values["det_grad_cam"]["deletion"]
        assert one.values["odam"]["box/edge"] is not None
        assert one.values["d_rise"]["box/edge"] is None
    assert set(image.pictures.maps["odam"]) <= {"score", "x_min"}
    assert set(image.pictures.maps["grad_cam"]) <= {"score"}


@pytest.mark.slow
@pytest.mark.parametrize("trained", ["trained_retinanet", "trained_faster_rcnn"])
def test_a_batch_detects_what_single_images_do(trained, request):
    trained = request.getfixturevalue(trained)
    detector, images = Detectron2Adapter(trained.model), [sample.image for sample in trained.samples[:5]]
    with torch.no_grad():
        alone = detector.detect(images)
    for one, other in zip(detector.detect_batch(images), alone, strict=True):
        assert torch.equal(one.labels, other.labels)
        assert torch.allclose(one.boxes, other.boxes, atol=1e-3)
        assert torch.allclose(one.scores, other.scores, atol=1e-5)
