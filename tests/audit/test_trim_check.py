"""A trimmed audit explains some of its objects exactly, too, and says how far that is from what it reports."""

import math
import warnings

import pytest
import torch
from helpers.known_detectors import LinearDetector, box_sample

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.loop import audit
from odsg_lightning.audit.measure import object_row
from odsg_lightning.audit.trim_check import trims
from odsg_lightning.saliency.gradients import AutogradLinearization
from odsg_lightning.saliency.protocol import EngineChoice

BOX = [2, 2, 12, 12]
INSIDE, OUTSIDE = [(3, 3), (3, 4), (3, 5)], (20, 20)
SETTINGS = {"n_samples": 4, "sigma": 0.001, "blur_sigma": 0.0, "occlusion": False}


class TrimmingDetector(LinearDetector):
    """Its maps light up some pixels of the object; without trimming one more outside, as bright as that is told."""

    def __init__(self, lost, dropped=0.0, serves="windowed", inside=INSIDE):
        weights = torch.zeros(1, 5, 3, 24, 24)
        for y, x in inside:
            weights[..., y, x] = 1e-6
        super().__init__(torch.tensor([[*map(float, BOX), 0.95]]), weights, torch.tensor([0]))
        self.exact = LinearDetector(self.base, weights.clone(), self.labels)
        self.exact.weights[..., OUTSIDE[0], OUTSIDE[1]] = lost * 1e-6
        self.dropped, self.serves, self.asked = dropped, serves, []

    def choose_engine(self, engine, precision, trim=0.0):
        return EngineChoice(self.serves, precision, "why", trim if self.serves == "windowed" else 0.0)

    def linearize(self, image, *, engine, precision, trim=0.0):
        self.asked.append(trim)
        detector, dropped = (self, self.dropped) if trim else (self.exact, 0.0)
        known = AutogradLinearization(LinearDetector(detector.base, detector.weights, detector.labels), image)

        class Told:
            detections = known.detections

            def gradients(self, indices):
                return (gradient._replace(dropped=dropped) for gradient in known.gradients(indices))

        return Told()


def audited(detector, samples=None, objects=None, **settings):
    samples = [box_sample([BOX], [0])] if samples is None else samples
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        found = list(audit(detector, samples, AuditConfig(**{**SETTINGS, "trim": 0.01, **settings}), objects=objects))
    return found, [str(warning.message) for warning in warned]


def test_values_by_hand():
    detector = TrimmingDetector(lost=1.0, dropped=0.02)
    ((item,), (told,)) = audited(detector)
    # Three ones of 576 pixels against four, and three quarters of these on the object instead of all.
    three, four = 3 / 576, 4 / 576
    expected = (three - three * four) / math.sqrt(three * (1 - three) * four * (1 - four))
    assert item.trim_check.correlation == pytest.approx(expected, abs=1e-6)
    assert item.trim_check.iof == pytest.approx(0.25)
    assert item.explained.saliency.dropped == 0.02
    assert object_row(item).trimmed == pytest.approx({"dropped": 0.02, "correlation": expected, "iof": 0.25}, abs=1e-6)
    assert detector.asked == [0.01] * 4 + [0.01] * 2 + [0.0] * 2
    assert told == (
        "With trim=0.01 annotation 1 of image id 1 has maps that correlate 0.8653 with exact ones, where at least 0.99 "
        "is expected, and IOF that differs by 0.2500, where at most 0.005 is. "
        "Audit with a smaller trim, or with trim=0."
    )


def test_little_is_reported_and_not_warned_of():
    (item,), told = audited(TrimmingDetector(lost=0.1))
    assert 0.99 < item.trim_check.correlation < 1
    assert item.trim_check.iof == 0  # so dark a pixel is no foreground
    assert told == []


def test_iof_that_differs_is_warned_of_however_alike_the_maps_are():
    (item,), told = audited(TrimmingDetector(lost=0.35, inside=[(3 + n // 4, 3 + n % 4) for n in range(16)]))
    assert item.trim_check.correlation > 0.99
    assert item.trim_check.iof == pytest.approx(1 / 17)
    assert len(told) == 1


def test_much_that_the_engine_says_it_dropped_is_warned_of():
    _, told = audited(TrimmingDetector(lost=0.0, dropped=0.11))
    assert told == [
        "With trim=0.01 more than 10% of some objects' gradients is left out. "
        "Audit with a smaller trim, or with trim=0."
    ]
    (item,), told = audited(TrimmingDetector(lost=0.0, dropped=0.09))
    assert (told, object_row(item).trimmed["dropped"]) == ([], 0.09)


def test_settings_of_gradients_are_not_for_other_explainers():
    assert trims(AuditConfig(trim=0.01))
    assert trims(AuditConfig(trim=0.01, explainer="gradient"))
    assert not trims(AuditConfig())
    assert not trims(AuditConfig(trim=0.01, explainer="odam"))


@pytest.mark.parametrize(("serves", "trim"), [("cut", 0.01), ("windowed", 0.0)])
def test_nothing_is_checked_where_nothing_is_trimmed(serves, trim):
    detector = TrimmingDetector(lost=1.0, serves=serves)
    (item,), told = audited(detector, trim=trim)
    assert (item.trim_check, told) == (None, [])
    assert detector.asked == [trim] * 4


def test_every_eighth_object_is_checked_whoever_audits_it():
    samples = [box_sample([BOX], [0], image_id=number) for number in range(1, 19)]
    keys = frozenset((sample.image_id, 1) for sample in samples)
    together, _ = audited(TrimmingDetector(lost=0.0), samples, n_samples=1)
    apart, _ = audited(TrimmingDetector(lost=0.0), samples[1::2], keys, n_samples=1)
    assert [item.sample.image_id for item in together if item.trim_check] == [1, 9, 17]
    assert [item.sample.image_id for item in apart if item.trim_check] == []
    apart, _ = audited(TrimmingDetector(lost=0.0), samples[::2], keys, n_samples=1)
    assert [item.sample.image_id for item in apart if item.trim_check] == [1, 9, 17]


def test_an_object_without_a_defined_map_is_no_value():
    (item,), told = audited(TrimmingDetector(lost=0.0), match_iou=0.99, sigma=1e6)
    assert math.isnan(item.trim_check.correlation)
    assert math.isnan(item.trim_check.iof)
    assert object_row(item).trimmed == {"dropped": 0, "correlation": None, "iof": None}
    assert told == []
