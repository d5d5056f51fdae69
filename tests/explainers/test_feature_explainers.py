"""Explainers that look at features, on real trained detectors and on those whose features cannot be found."""

import math

import pytest
import torch
from helpers.engine_cases import first, untouched
from helpers.known_detectors import IMAGE, LinearDetector, two_objects

from odsg_lightning.detectors.detectron2 import Detectron2Adapter
from odsg_lightning.errors import UserInputError
from odsg_lightning.explainers.base import check_gives
from odsg_lightning.explainers.by_name import EXPLAINERS, make_explainer, settings_of
from odsg_lightning.explainers.lrp import contrast
from odsg_lightning.names import BOX_PARAMETERS, PARAMETERS
from odsg_lightning.types import Detections

OF_FEATURES = [name for name in EXPLAINERS if name not in ("smoothgrad", "gradient", "d_rise")]
FAST = {"d_rise": {"n_masks": 150, "cells": 8}, "smoothgrad": {"n_samples": 2}}


@pytest.fixture(params=["trained_retinanet", "trained_faster_rcnn"])
def trained(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def adapter(trained):
    return Detectron2Adapter(trained.model)


@pytest.fixture
def found(adapter, trained):
    """An image in which something is detected, and what."""

    def detected(image):
        with torch.no_grad():
            return adapter.detect([image])[0]

    image = first((sample.image for sample in trained.samples), lambda image: (detected(image).scores > 0.5).sum() > 1)
    return image, detected(image)


def explain(explainer, detector, image, reference, indices):
    return explainer.explain(detector, image, reference, indices, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
class TestTrained:
    @pytest.mark.parametrize("name", EXPLAINERS)
    def test_every_explainer_gives_the_maps_that_it_says(self, adapter, found, name):
        image, reference = found
        explainer, calls = make_explainer(name, **FAST.get(name, {})), []
        indices = reference.scores.argsort(descending=True)[:2].tolist()
        with untouched(adapter.model):
            maps = explainer.explain(
                adapter, image, reference, indices, generator=torch.Generator(), on_sample=lambda: calls.append(1)
            )
        assert len(calls) == explainer.samples
        for one in maps:
            assert one.maps.shape == (5, *image.shape[1:])
            assert one.parameters == explainer.parameters
            for parameter, of_parameter in zip(PARAMETERS, one.maps, strict=True):
                assert of_parameter.isnan().all() or (of_parameter >= 0).all()
                assert of_parameter.isnan().all() or parameter in explainer.parameters
            assert not one.maps[4].isnan().any()
        assert not torch.equal(maps[0].maps[4], maps[1].maps[4])

    @pytest.mark.parametrize("name", OF_FEATURES)
    def test_a_detection_is_explained_as_its_candidate_whatever_else_is_asked(self, adapter, found, name):
        image, reference = found
        explainer = make_explainer(name)
        _, candidates = adapter.candidates_of_detections(image)
        [wanted] = explain(explainer, adapter.outputs_of(candidates), image, reference, [1])
        twice = explain(explainer, adapter, image, reference, [1, 0])
        torch.testing.assert_close(twice[0].maps, wanted.maps, rtol=1e-4, atol=1e-5, equal_nan=True)
        backwards = reference[list(reversed(range(len(reference))))]
        [again] = explain(explainer, adapter, image, backwards, [len(reference) - 2])
        torch.testing.assert_close(again.maps, wanted.maps, rtol=1e-4, atol=1e-5, equal_nan=True)

    @pytest.mark.parametrize("name", ["grad_cam", "odam", "layer_cam", "ss_grad_cam", "ss_grad_cam_pp", "lrp"])
    def test_any_of_the_five_can_be_asked(self, adapter, found, name):
        image, reference = found
        [some] = explain(make_explainer(name, parameters=("y_max", "score")), adapter, image, reference, [0])
        [every] = explain(make_explainer(name, parameters=PARAMETERS), adapter, image, reference, [0])
        assert some.parameters == ("y_max", "score")
        assert some.maps[:3].isnan().all()
        torch.testing.assert_close(some.maps[3:], every.maps[3:], equal_nan=True)

    def test_all_layers_are_the_maximum_of_each(self, adapter, found):
        image, reference = found
        [together] = explain(make_explainer("odam", layer="all"), adapter, image, reference, [0])
        stages = [
            name for name in adapter.outputs_of(adapter.candidates_of_detections(image)[1]).layers if "res" in name
        ]
        layers = ["level", *stages]
        alone = [explain(make_explainer("odam", layer=layer), adapter, image, reference, [0])[0] for layer in layers]
        expected = torch.stack([one.maps for one in alone]).nan_to_num(-math.inf).amax(dim=0)
        torch.testing.assert_close(together.maps, expected.where(expected >= 0, torch.nan), equal_nan=True)
        assert len(stages) >= 3

    def test_an_unknown_layer_lists_those_there_are(self, adapter, found):
        with pytest.raises(UserInputError, match=r"one of \('p.', .*'res5', 'input'\), but got 'layer4'"):
            explain(make_explainer("grad_cam", layer="layer4"), adapter, *found, [0])

    @pytest.mark.parametrize("name", OF_FEATURES)
    def test_an_object_that_is_not_detected_is_explained(self, adapter, found, name):
        image, _ = found
        boxes = torch.tensor([[40.0, 40, 70, 72]])
        outputs = adapter.outputs_of(adapter.candidates_for_objects(image, boxes, torch.tensor([1])))
        with torch.no_grad():
            (reference,) = outputs.detect([image])
        [one] = explain(make_explainer(name), outputs, image, reference, [0])
        assert one.parameters == make_explainer(name).parameters

    def test_odam_and_det_grad_cam_are_one_for_the_class(self, adapter, found):
        [five] = explain(make_explainer("odam"), adapter, *found, [0])
        [one] = explain(make_explainer("det_grad_cam"), adapter, *found, [0])
        assert torch.equal(five.maps[4], one.maps[4])
        assert not five.maps.isnan().any()


# Detectors without features ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_FEATURES)
def test_a_detector_whose_features_cannot_be_found_is_refused(name):
    detector = LinearDetector(*two_objects())
    (reference,) = detector.detect([IMAGE])
    with pytest.raises(UserInputError, match=r"FeatureDetector\), but LinearDetector has none: the explainers"):
        explain(make_explainer(name), detector, IMAGE, reference, [0])


@pytest.mark.parametrize("name", EXPLAINERS)
def test_nothing_asked_nothing_made(name):
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())
    assert explain(make_explainer(name), LinearDetector(*two_objects()), IMAGE, nothing, []) == []


def test_contrast_by_hand():
    own, other = torch.arange(101.0).reshape(1, -1), torch.full((1, 101), 50.0)
    found = contrast(own, other)[0]
    assert found[[0, 60, 98, 100]].tolist() == [-25, 5, 24, 24]  # what is above 98 counts as 98


# By name -------------------------------------------------------------------------------------------------------------


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(UserInputError, match=r"Expected an explainer, one of smoothgrad, .*_lrp, but got 'cam'"):
        make_explainer("cam")


def test_an_unknown_setting_lists_those_there_are():
    with pytest.raises(UserInputError, match="settings of 'grad_cam', any of layer, parameters, but got 'n_samples'"):
        make_explainer("grad_cam", n_samples=5)


def test_settings_reach_the_explainer():
    assert make_explainer("smoothgrad", n_samples=7).samples == 7
    assert make_explainer("lrp", epsilon=0.1).epsilon == 0.1
    assert settings_of("d_rise") == ("n_masks", "cells", "keep", "hidden", "stop_at", "batch_size")
    with pytest.raises(UserInputError, match="`epsilon` to be a finite number, 0 or more, but got -1"):
        make_explainer("lrp", epsilon=-1)
    with pytest.raises(UserInputError, match=r"`convolution` to be one of \('zplus', 'epsilon'\), but got 'gamma'"):
        make_explainer("contrastive_lrp", convolution="gamma")


def test_boxes_are_asked_only_of_those_that_explain_them():
    check_gives(make_explainer("odam"), BOX_PARAMETERS)
    check_gives(make_explainer("d_rise"), ["score"])
    with pytest.raises(UserInputError, match="maps of x_min, y_min, x_max, y_max, but DRISE gives those of score"):
        check_gives(make_explainer("d_rise"), BOX_PARAMETERS)


def test_which_give_maps_of_the_box():
    boxes = {name for name in EXPLAINERS if make_explainer(name).parameters == PARAMETERS}
    assert boxes == {"smoothgrad", "gradient", "odam"}
    assert all(make_explainer(name).parameters == ("score",) for name in set(EXPLAINERS) - boxes)
