"""The check on real detectors: what an explainer has to do with the weights, told by known explainers."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from odsg_lightning.detectors.build import build_detector, load_config
from odsg_lightning.errors import BrokenInputError, UserInputError
from odsg_lightning.explainers.gradient import Gradient
from odsg_lightning.explainers.smoothgrad import SmoothGrad
from odsg_lightning.names import PARAMETERS
from odsg_lightning.sanity.check import DISTANCE, _summary, label_randomisation, weight_randomisation
from odsg_lightning.types import AuditSample, ObjectSaliency

STAGES = ("predictor", "head", "fpn", "res5", "res4", "res3", "res2", "stem")


def picture(seed, size=64):
    generator = torch.Generator().manual_seed(seed)
    nothing = torch.zeros(0, dtype=torch.int64)
    image = 255 * torch.rand(3, size, size, generator=generator)
    return AuditSample(image, torch.zeros(0, 4), nothing, torch.zeros(0, size, size).bool(), seed, ())


class Brightness:
    """Explains the picture, whatever the detector."""

    samples = 1
    seen = ()

    def explain(self, detector, image, reference, indices, **settings):
        self.seen = (*self.seen, (detector.candidates, reference.boxes))
        return [ObjectSaliency(image.mean(dim=0).expand(5, -1, -1).clone(), 1, 1) for _ in indices]


@pytest.fixture(scope="module", params=["retinanet_tiny", "faster_rcnn_tiny"])
def model(request):
    """Untrained: it detects something everywhere, with scores that say nothing."""
    torch.manual_seed(0)
    settings = {"MODEL.RETINANET.SCORE_THRESH_TEST": 0.0, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0}
    return build_detector(load_config(request.param, settings)).eval()


def test_an_explainer_that_ignores_the_detector_stays_the_same_and_is_found_out(model):
    before, explainer = copy.deepcopy(model.state_dict()), Brightness()
    pictures = [picture(1), picture(2)]
    check = weight_randomisation(model, pictures, explainer, score_threshold=0, max_objects=2)
    assert (check.n_images, check.n_objects, check.stages) == (2, 4, STAGES)
    for stage in STAGES:
        for one in check.values[stage].values():
            assert one.mean == pytest.approx(1, abs=1e-12)
            assert (one.interval, one.n_objects) == (None, 4)  # of two images there is no interval
    assert abs(check.values[DISTANCE]["spearman/score"].mean) < 0.1  # noise has no place
    assert check.unchanged("spearman") == check.unchanged("spearman_box") == [*PARAMETERS]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    first, *others = explainer.seen[: 1 + len(STAGES)]
    assert all(candidates == first[0] for candidates, _ in others)  # the same anchors or regions all the way down
    assert not torch.equal(first[1], others[-1][1])  # by detectors that say something else of them


def test_maps_of_gradients_change_from_the_first_stage_on_and_the_same_seed_gives_the_same_bits(model):
    check, again, other = (
        weight_randomisation(model, [picture(1)], Gradient(), score_threshold=0, max_objects=1, seed=seed)
        for seed in (0, 0, 1)
    )
    assert check == again != other
    for stage in STAGES:
        assert all(one.mean is None or one.mean < 0.999 for one in check.values[stage].values())


def test_each_engine_explains_the_randomised_detector(model):
    """None of them keeps weights of the detector that it saw before."""
    checks = [
        weight_randomisation(model, [picture(1)], Gradient(engine=engine), score_threshold=0, max_objects=1)
        for engine in ("auto", "autograd")
    ]
    for stage in STAGES:
        for name, one in checks[0].values[stage].items():
            assert one.mean == pytest.approx(checks[1].values[stage][name].mean, abs=2e-3), (stage, name)


def test_labels_compare_two_detectors_on_the_anchors_of_the_first(model):
    torch.manual_seed(1)
    other = build_detector(load_config("retinanet_tiny" if hasattr(model, "head") else "faster_rcnn_tiny")).train()
    check = label_randomisation(model, other, [picture(1)], Gradient(), score_threshold=0, max_objects=2)
    assert check.stages == ("labels",)
    assert list(check.values) == ["labels", DISTANCE]
    assert check.n_objects == 2
    assert other.training
    same = label_randomisation(model, model, [picture(1)], Gradient(), score_threshold=0, max_objects=2)
    assert all(one.mean == pytest.approx(1) for one in same.values["labels"].values())


def test_nothing_detected_is_nothing_compared(model):
    check = weight_randomisation(model, [picture(1)], Brightness(), score_threshold=1.0)
    assert (check.n_objects, check.stages, check.values, check.unchanged("spearman")) == (0, (), {}, [])


def test_bad_input(model):
    with pytest.raises(UserInputError, match="`max_objects` to be None or at least 1, but got 0"):
        weight_randomisation(model, [], Brightness(), max_objects=0)
    own = SimpleNamespace(detect=lambda images: [])
    with pytest.raises(UserInputError, match="RetinaNet or Faster R-CNN, but got SimpleNamespace"):
        weight_randomisation(own, [], Brightness())
    broken = copy.deepcopy(model)
    broken.backbone = torch.nn.Identity()
    with pytest.raises(BrokenInputError, match="its forward pass of image id 1 raised"):
        weight_randomisation(broken, [picture(1)], Brightness())


def test_means_and_intervals_are_over_objects_and_whole_images():
    rng = np.random.default_rng(0)
    values = [rng.random((count, 5, 3)) for count in (1, 3, 2, 1, 4, 2, 3)]
    values[1][0, 4, 0] = math.nan
    values[2][:, 0, 1] = math.nan
    by_image = [{"a": torch.from_numpy(one), "b": torch.from_numpy(1 - one)} for one in values]
    found = _summary(by_image)
    score = found["a"]["spearman/score"]
    expected = np.concatenate([one[:, 4, 0] for one in values])
    assert score.n_objects == 15
    assert score.mean == pytest.approx(np.nanmean(expected))
    assert found["b"]["ssim/y_max"].mean == pytest.approx(1 - np.concatenate([one[:, 3, 2] for one in values]).mean())
    assert found["a"]["spearman_box/x_min"].n_objects == 14
    means = []
    for _ in range(4000):
        drawn = np.concatenate([values[i][:, 4, 0] for i in rng.integers(0, 7, 7)])
        means.append(np.nanmean(drawn))
    assert score.interval == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)
    assert _summary(by_image[:4])["a"]["spearman/score"].interval is None


@pytest.mark.slow
@pytest.mark.parametrize("trained", ["trained_retinanet", "trained_faster_rcnn"])
def test_smoothgrad_loses_what_a_trained_detector_shows_in_the_box(trained, request):
    """Over the whole image rank correlation stays high, and so it does for the distance alone: see docs/sanity.md."""
    detector = request.getfixturevalue(trained)
    check = weight_randomisation(detector.model, detector.samples[:6], SmoothGrad(n_samples=4), max_objects=1)
    assert check.n_objects >= 4
    means = {
        (stage, measure): np.mean([check.values[stage][f"{measure}/{parameter}"].mean for parameter in PARAMETERS])
        for stage in ("predictor", "stem", DISTANCE)
        for measure in ("spearman", "spearman_box")
    }
    assert means["stem", "spearman_box"] < 0.5
    assert means["stem", "spearman"] > 0.5
    assert means[DISTANCE, "spearman"] > 0.5
