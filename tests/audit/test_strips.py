"""The two panels of an audited object's strip that show what the detector was shown, and what it said."""

from functools import partial

import pytest
import torch
from helpers.known_detectors import LinearDetector, box_sample, two_objects
from helpers.known_module import HIDDEN, TWO

from odsg_lightning.audit import strips
from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.loop import audit
from odsg_lightning.audit.strips import audited_strip
from odsg_lightning.occlusion.evidence import NECESSITY, SUFFICIENCY
from odsg_lightning.types import Detections
from odsg_lightning.viz.strip import object_strip


class SaysWhatItIsTold(LinearDetector):
    """Answers pictures with hidden pixels, which come together, as it is told: a shift of x_min, and a score."""

    answers = (((1.0, 0.9), None), ((0.0, 0.25), (0.0, 0.0)))
    """Of each object, alone and without it, for the first replacement."""

    others = 0.95, 0.0
    """Score for every other replacement, of sufficiency and of necessity."""

    def detect(self, images):
        found = super().detect(images)
        if len(images) == 1:
            return found
        counts = len(SUFFICIENCY) - 1, len(NECESSITY) - 1
        others = [[(0.0, score)] * count for score, count in zip(self.others, counts, strict=True)]
        told = [
            (index, answer)
            for index, (alone, without) in enumerate(self.answers)
            for answer in (alone, *others[0], without, *others[1])
        ]
        return [self.told(one, index, answer) for one, (index, answer) in zip(found, told, strict=True)]

    def told(self, detections, index, answer):
        if answer is None:
            return detections[[]]
        shift, score = answer
        one = detections[[index]]
        return Detections(one.boxes + torch.tensor([shift, 0, 0, 0]), torch.full_like(one.scores, score), one.labels)


def drawn(monkeypatch, detector, config, boxes=TWO):
    """What was drawn of each object: its detection, and the two panels."""
    calls = []

    def spy(*arguments, **settings):
        calls.append(settings)
        return object_strip(*arguments, **settings)

    monkeypatch.setattr(strips, "object_strip", spy)
    items = list(audit(detector, [box_sample(boxes, [0, 1][: len(boxes)])], config))
    pictures = [audited_strip(item, config) for item in items]
    assert len({picture.shape for picture in pictures}) == 1
    return items, [call.get("hidden") for call in calls]


@pytest.fixture
def known():
    return partial(two_objects, dtype=torch.float32, scale=1e-8)


def test_each_picture_stands_beside_what_the_detector_said(monkeypatch, known):
    detector = SaysWhatItIsTold(*known())
    items, panels = drawn(monkeypatch, detector, AuditConfig(n_samples=1))
    shown = detector.seen[-2 * HIDDEN :]
    assert [panel.words for pair in panels for panel in pair] == [
        "score 0.90",
        "not detected",
        "score 0.25",
        "score 0.00",
    ]
    for index, pair in enumerate(panels):
        for position, panel in enumerate(pair):
            assert torch.equal(panel.picture, shown[HIDDEN * index + len(SUFFICIENCY) * position])
    (moved, gone), (low, zero) = panels
    assert moved.box.tolist() == pytest.approx([3, 2, 12, 12], abs=1e-4)
    assert gone.box is None
    for panel in (low, zero):
        assert panel.box.tolist() == pytest.approx(items[1].explained.box.tolist(), abs=1e-4)


def test_the_replacement_that_counts_is_shown(monkeypatch, known):
    detector = SaysWhatItIsTold(*known())
    detector.others = 0.1, 0.0  # less than under the first
    _, panels = drawn(monkeypatch, detector, AuditConfig(n_samples=1))
    shown = detector.seen[-2 * HIDDEN :]
    for index, (alone, _) in enumerate(panels):
        assert alone.words == "score 0.10"
        assert torch.equal(alone.picture, shown[HIDDEN * index + 1])


def test_what_cannot_be_judged_is_said_to_be_so(monkeypatch, known):
    # An object that fills its image: nothing around it is hidden, and nothing is left without it.
    base, weights, labels = (part[:1] for part in known())
    base[0, :4] = torch.tensor([0.0, 0.0, 24.0, 24.0])
    detector = LinearDetector(base, weights, labels)
    _, (pair,) = drawn(monkeypatch, detector, AuditConfig(n_samples=1), boxes=[[0, 0, 24, 24]])
    assert [(panel.words, panel.picture, panel.box) for panel in pair] == [("not judged", None, None)] * 2


def test_what_was_switched_off_is_said_to_be_so(monkeypatch, known):
    _, panels = drawn(monkeypatch, LinearDetector(*known()), AuditConfig(n_samples=1, occlusion=False))
    assert [(panel.words, panel.picture) for pair in panels for panel in pair] == [("switched off", None)] * 4


def test_a_missed_object_has_no_pictures(monkeypatch, known):
    base, weights, labels = known()
    base[1, 4] = 0.1
    _, panels = drawn(monkeypatch, LinearDetector(base, weights, labels), AuditConfig(n_samples=1))
    assert panels[0] is not None
    assert panels[1] is None  # and so says "missed": tests/viz
