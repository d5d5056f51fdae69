"""Sufficiency and necessity of detectors that are known to look at the object, or at a mark beside it."""

from dataclasses import replace

import pytest
import torch

from odsg_lightning.metrics.occlusion import occlusion_values
from odsg_lightning.occlusion.evidence import NECESSITY, SUFFICIENCY, detected_again, occlusion_evidence
from odsg_lightning.types import Detections

MARGINS = {"sufficiency_margin": 0.1, "necessity_margin": 0.1}
SIDE = 64
BOX = (20, 24, 40, 48)
MARK = (50, 8, 56, 14)
SCORE = 250 / 255
EVERYWHERE = (0, 0, SIDE, SIDE)


class ReadsPatches:
    """Detects an object at its box with the mean brightness of some patches as its score, if that is at least 0.6."""

    def __init__(self, *patches, box=BOX):
        self.patches, self.box, self.calls = patches, box, []

    def detect(self, images):
        self.calls.append(len(images))
        found = []
        for image in images:
            score = min(float(image[:, y0:y1, x0:x1].mean()) / 255 for x0, y0, x1, y1 in self.patches)
            count = int(score >= 0.6)  # grey is half as bright as an object
            boxes = torch.tensor([self.box] * count, dtype=torch.float32).reshape(-1, 4)
            found.append(Detections(boxes, torch.full((count,), score), torch.zeros(count, dtype=torch.int64)))
        return found


def scene(box=BOX):
    """A bright object and a bright mark on black, and the object's segmentation."""
    image, masks = torch.zeros(3, SIDE, SIDE), torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    for x0, y0, x1, y1 in (box, MARK):
        image[:, y0:y1, x0:x1] = 250.0
    masks[0, box[1] : box[3], box[0] : box[2]] = True
    return image, masks


def judged(detector, box=BOX, **margins):
    image, masks = scene(box)
    (reference,) = detector.detect([image])
    assert len(reference) == 1
    detector.calls.clear()
    return list(occlusion_evidence(detector, image, reference, masks, **(MARGINS | margins)))


def values(evidence):
    evidence = list(evidence)
    return occlusion_values(evidence, torch.full((len(evidence),), SCORE)).tolist()


def test_a_detector_of_the_object_needs_the_object_and_nothing_else():
    assert values(judged(ReadsPatches(BOX))) == [[pytest.approx(1), 1]]


def test_a_detector_of_a_mark_needs_the_mark_and_not_the_object():
    assert values(judged(ReadsPatches(MARK))) == [[0, pytest.approx(0, abs=1e-6)]]


def test_a_detector_that_needs_both_finds_neither_alone():
    assert values(judged(ReadsPatches(BOX, MARK))) == [[0, 1]]


def test_what_was_detected_again_is_kept():
    (evidence,) = judged(ReadsPatches(BOX))
    alone, hidden = evidence.sufficiency[SUFFICIENCY[0]], evidence.necessity[NECESSITY[0]]
    assert alone.score == pytest.approx(250 / 255)
    assert (alone.iou, alone.shift) == (1.0, (0.0, 0.0, 0.0, 0.0))
    assert (hidden.score, hidden.iou, hidden.shift) == (0.0, 0.0, None)


def test_a_mark_within_the_margin_cannot_be_told_from_the_object():
    near = (42, 24, 46, 28)  # 3 pixels outside of the box
    image, masks = scene()
    image[:, near[1] : near[3], near[0] : near[2]] = 250.0
    detector = ReadsPatches(near)
    (reference,) = detector.detect([image])
    for margin, low, high in ((0.05, 0.0, 0.3), (0.5, 0.99, 1.0)):
        evidence = occlusion_evidence(
            detector, image, reference, masks, sufficiency_margin=margin, necessity_margin=0.05
        )
        assert low <= values(evidence)[0][0] <= high


def several(count):
    image, masks = scene()
    detector = ReadsPatches(BOX)
    (reference,) = detector.detect([image])
    detector.calls.clear()
    which = torch.zeros(count, dtype=torch.int64)
    return detector, occlusion_evidence(detector, image, reference[which], masks[which], **MARGINS)


def test_the_pictures_of_a_few_objects_are_shown_in_one_call():
    each = len(SUFFICIENCY) + len(NECESSITY)
    detector, evidence = several(6)
    assert values(evidence) == [[pytest.approx(1), 1]] * 6
    assert detector.calls == [4 * each, 2 * each]


def test_without_detections_nothing_is_run():
    detector, evidence = several(0)
    assert list(evidence) == []
    assert detector.calls == []


def test_an_object_that_fills_the_image_cannot_be_judged():
    detector = ReadsPatches(EVERYWHERE, box=EVERYWHERE)
    evidence = judged(detector, box=EVERYWHERE)
    assert set(evidence[0].sufficiency.values()) == {None}
    assert set(evidence[0].necessity.values()) == {None}
    assert occlusion_values(evidence, torch.ones(1)).isnan().all()
    assert detector.calls == []


@pytest.mark.parametrize(("width", "judgeable"), [(56, True), (57, False)])
def test_a_tenth_of_the_image_must_be_left(width, judgeable):  # beside the object and one pixel
    box = (0, 0, width, SIDE)
    (evidence,) = judged(ReadsPatches(box, box=box), box=box, sufficiency_margin=0.0, necessity_margin=0.0)
    assert (evidence.sufficiency[SUFFICIENCY[0]] is not None) == judgeable
    assert (evidence.necessity[NECESSITY[0]] is not None) == judgeable


def test_an_object_at_the_border_is_judged():
    box = (44, 40, 64, 64)
    assert values(judged(ReadsPatches(box, box=box), box=box)) == [[pytest.approx(1), 1]]


def detections(*rows):
    boxes = torch.tensor([row[0] for row in rows]).reshape(-1, 4)
    return Detections(boxes, torch.tensor([row[1] for row in rows]), torch.tensor([row[2] for row in rows]))


ONE = detections(((10.0, 10.0, 30.0, 20.0), 0.9, 1))


def test_the_best_score_of_the_same_class_and_place_counts():
    found = detections(
        ((10.0, 10.0, 30.0, 20.0), 0.99, 0),  # another class
        ((50.0, 10.0, 70.0, 20.0), 0.98, 1),  # another place
        ((10.0, 10.0, 30.0, 20.0), 0.40, 1),
        ((12.0, 9.0, 32.0, 21.0), 0.70, 1),
    )
    again = detected_again(ONE, found)
    assert again.score == pytest.approx(0.7)
    assert again.iou == pytest.approx(18 * 10 / (20 * 10 + 20 * 12 - 18 * 10))
    assert again.shift == pytest.approx((2 / 20, -1 / 10, 2 / 20, 1 / 10))


@pytest.mark.parametrize(("x_max", "same"), [(20.0, True), (19.9, False)])
def test_the_same_place_is_an_iou_of_a_half(x_max, same):
    again = detected_again(ONE, detections(((10.0, 10.0, x_max, 20.0), 0.8, 1)))
    assert (again.score > 0) == same


def test_nothing_found_is_no_detection():
    empty = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    again = detected_again(ONE, empty)
    assert (again.score, again.iou, again.shift) == (0.0, 0.0, None)


def test_undefined_replacements_are_left_out_of_an_objects_value():
    (evidence,) = judged(ReadsPatches(BOX))
    again = next(iter(evidence.sufficiency.values()))
    mixed = replace(evidence, sufficiency={"blur": again, "grey": None})
    assert values([mixed]) == [[pytest.approx(1), 1]]
