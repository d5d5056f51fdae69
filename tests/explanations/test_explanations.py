"""Any picture explained, by detectors whose maps are known and by real ones."""

import io

import numpy as np
import pytest
import torch
from helpers.candidates import WithLogits
from helpers.engine_cases import first
from helpers.known_detectors import IMAGE, LinearDetector, QuadraticDetector, two_objects
from matplotlib import pyplot as plt
from PIL import Image
from torch import nn

from odsg_lightning import explain
from odsg_lightning.errors import UserInputError
from odsg_lightning.explainers.gradient import Gradient
from odsg_lightning.explainers.smoothgrad import SmoothGrad
from odsg_lightning.saliency.gradients import AutogradLinearization
from odsg_lightning.saliency.noise import image_generator
from odsg_lightning.saliency.smoothgrad import smoothgrad

NAMES = ["cat", "dog", "cow"]
FEW = SmoothGrad(n_samples=2)


# What is explained ---------------------------------------------------------------------------------------------------


def test_what_is_returned_is_explained_as_smoothgrad_does_it():
    detector = QuadraticDetector(*two_objects(scale=1e-8))
    (reference,) = detector.detect([IMAGE])
    expected = smoothgrad(detector, IMAGE, reference, [1, 0], generator=image_generator(3, 0), n_samples=2)
    found = explain(detector, IMAGE, explainer=FEW, seed=3, category_names=NAMES)
    assert [one.name for one in found] == ["dog", "cat"]  # the surer one first
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.maps, other.maps)
        assert (one.target, one.region, one.matched_samples, one.n_samples) == ("output", None, 2, 2)
        assert torch.equal(one.box, reference.boxes[one.label])


def test_a_linear_detector_has_its_weights_as_map_whatever_the_target():
    detector = WithLogits()
    boxes, labels = torch.tensor([[0.0, 0, 4, 4]]), ["cow"]
    cases = [
        ({}, 0, detector.weights[1, 4]),
        ({"target": "logit"}, 0, detector.by_class[0, 0]),
        ({"classes": ["cow", 0]}, 0, detector.by_class[0, 2]),
        ({"against": "cow"}, 1, detector.by_class[1, 1] - detector.by_class[1, 2]),
        ({"boxes": boxes, "labels": labels}, 0, detector.by_class[1, 2]),
        ({"suppressed": True}, 2, detector.by_class[1, 0]),
    ]
    for settings, index, score_weights in cases:
        found = explain(detector, IMAGE, explainer=FEW, category_names=NAMES, **settings)[index]
        torch.testing.assert_close(found.maps[4], score_weights.abs().amax(0), rtol=1e-9, atol=0)
        assert found.matched_samples == 2


def test_a_trimmed_explanation_says_so():
    class Trimming(LinearDetector):
        def linearize(self, image, *, engine, precision, trim=0.0):
            known = AutogradLinearization(LinearDetector(self.base, self.weights, self.labels), image)
            gradients = known.gradients
            known.gradients = lambda indices: (one._replace(dropped=trim) for one in gradients(indices))
            return known

    detector = Trimming(*two_objects())
    one, _ = explain(detector, IMAGE, explainer=Gradient(trim=0.02), category_names=NAMES)
    assert one.dropped == 0.02
    assert one.title == f"dog: score {one.score:.3f}, trimmed by about 2.0%"
    assert "trimmed" not in explain(detector, IMAGE, explainer=Gradient(), category_names=NAMES)[0].title


def test_classes_are_asked_of_every_detection_in_turn():
    found = explain(WithLogits(), IMAGE, explainer=Gradient(), category_names=NAMES, classes=["cow", "dog"])
    assert [(one.name, int(one.region[0])) for one in found] == [("cow", 10), ("dog", 10), ("cow", 11), ("dog", 11)]
    (one,) = explain(WithLogits(), IMAGE, explainer=Gradient(), category_names=NAMES, against="cow", max_objects=1)
    assert (one.target, one.against, one.title[:18]) == ("logit", "cow", "cat rather than co")


def test_an_object_that_is_not_detected_is_explained():
    found = explain(WithLogits(), IMAGE, score_threshold=2, explainer=FEW)
    assert found == []
    boxes = torch.tensor([[0.0, 0, 4, 4], [1, 1, 5, 5]])
    assert len(explain(WithLogits(), IMAGE, boxes=boxes, labels=[1, 0], score_threshold=2, explainer=FEW)) == 2


# Which detections ----------------------------------------------------------------------------------------------------


def test_detections_are_chosen_by_score_class_and_point():
    detector = LinearDetector(*two_objects())

    def found(**settings):
        return [one.label for one in explain(detector, IMAGE, explainer=Gradient(), **settings)]

    assert found() == [1, 0]
    assert found(max_objects=1) == [1]
    (reference,) = detector.detect([IMAGE])
    between = float(reference.scores.mean())
    assert found(score_threshold=between) == [1]
    assert found(labels=[0]) == [0]
    assert found(labels=["cat"], category_names=NAMES) == [0]
    assert found(point=(4, 4)) == [0]
    assert found(point=(11, 9)) == [1, 0]
    assert found(point=(0, 23)) == []


def test_nothing_detected_gives_nothing():
    detector = LinearDetector(*two_objects())
    assert explain(detector, IMAGE, score_threshold=2) == []


# The detector and the picture ----------------------------------------------------------------------------------------


def test_the_module_is_left_as_it_was():
    class Module(nn.Module, LinearDetector):
        def __init__(self):
            nn.Module.__init__(self)
            LinearDetector.__init__(self, *two_objects())
            self.layer = nn.Linear(1, 1)

        def detect(self, images):
            assert not self.training
            return LinearDetector.detect(self, images)

    module = Module().train()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    with torch.no_grad():
        assert len(explain(module, IMAGE, explainer=FEW)) == 2
    assert module.training
    assert module.layer.weight.requires_grad
    assert torch.equal(torch.rand(1), expected)


def test_pictures_of_any_kind_are_the_same_picture():
    array = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    detector = LinearDetector(*(part.float() if part.is_floating_point() else part for part in two_objects()))
    first, *others = (
        explain(detector, picture, explainer=FEW) for picture in (tensor, tensor.float(), array, Image.fromarray(array))
    )
    assert len(first) == 2
    assert all(one == first for one in others)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": ["bird"], "category_names": NAMES}, "one of cat, dog, cow, but got 'bird'"),
        ({"labels": ["cat"]}, "knows no names: pass `category_names`"),
        ({"classes": [3], "category_names": NAMES}, "one of cat, dog, cow, but got 3"),
        ({"classes": [0]}, "LinearDetector returns detections alone: target='output'"),
        ({"point": (24, 3)}, r"inside the picture of 24x24 pixels, but got \(24, 3\)"),
        ({"point": (-1, 3)}, "inside the picture"),
        ({"target": "logits"}, "but got 'logits'"),
        ({"target": "output", "against": 1}, "with target='logit'"),
        ({"target": "ground_truth"}, "`boxes` together with target='ground_truth'"),
        ({"target": "logit", "boxes": torch.zeros(1, 4)}, "and only then"),
    ],
)
def test_what_does_not_fit_is_refused(settings, message):
    with pytest.raises(UserInputError, match=message):
        explain(LinearDetector(*two_objects()), IMAGE, **settings)


def test_boxes_need_a_class_each():
    for labels, came in ((None, "none"), ([0], "1")):
        with pytest.raises(UserInputError, match=f"the class of each of 2 boxes, but got {came}"):
            explain(WithLogits(), IMAGE, boxes=torch.zeros(2, 4), labels=labels)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (torch.zeros(24, 24, 3), r"but got Tensor of shape \(24, 24, 3\)"),
        (torch.zeros(3, 0, 4), r"of shape \(3, 0, 4\)"),
        (np.zeros((24, 24)), r"but got ndarray of shape \(24, 24\)"),
        ("picture.png", "but got str"),
        (torch.linspace(0, 1, 192).reshape(3, 8, 8), "0 to 255, but they range from 0 to 1"),
        (torch.full((3, 8, 8), 256.0), "from 256 to 256"),
        (torch.full((3, 8, 8), torch.nan), "from nan to nan"),
        (torch.full((3, 8, 8), -1.0), "from -1 to -1"),
    ],
)
def test_a_picture_that_is_none_is_refused(picture, message):
    with pytest.raises(UserInputError, match=message):
        explain(LinearDetector(*two_objects()), picture)


# How it shows itself -------------------------------------------------------------------------------------------------


def test_an_explanation_shows_itself():
    one = explain(LinearDetector(*two_objects()), IMAGE, explainer=FEW, category_names=NAMES)[0]
    with Image.open(io.BytesIO(one._repr_png_())) as picture:
        assert np.array_equal(np.asarray(picture), one.strip())
    figure, axes = one.plot()
    assert axes.figure is figure
    assert np.array_equal(axes.images[0].get_array(), one.strip())
    other, own = plt.subplots()
    assert one.plot(own) == (other, own)
    plt.close("all")
    assert one.title == f"dog: score {one.score:.3f}, 2/2 samples"
    assert "maps" not in repr(one)


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["trained_retinanet", "trained_faster_rcnn"])
def test_real_detectors_of_every_target(fixture, request):
    trained = request.getfixturevalue(fixture)
    settings = {"score_threshold": 0.2, "max_objects": 1, "explainer": FEW}
    image = first(
        (sample.image for sample in trained.samples),
        lambda image: [one.matched_samples for one in explain(trained.model, image, **settings)] == [2],
    )
    (returned,) = explain(trained.model, image, **settings)
    for asked in ({"target": "logit"}, {"classes": [0, 2]}, {"against": 1}):
        found = explain(trained.model, image, **settings, **asked)
        assert len(found) == (2 if "classes" in asked else 1)
        assert not any(one.maps.isnan().any() for one in found)
        torch.testing.assert_close(found[0].region, found[-1].region)
    (logit,) = explain(trained.model, image, **settings, target="logit")
    assert (logit.label, logit.score) == (returned.label, pytest.approx(returned.score, rel=1e-4))
    (missed,) = explain(trained.model, image, boxes=torch.tensor([[5.0, 5, 60, 60]]), labels=[1], explainer=FEW)
    assert not missed.maps.isnan().any()
    assert 0 < missed.score < 1
