"""What an audit says where hardly any object is paired with a detection."""

import pytest
import torch
from helpers.known_detectors import box_sample
from helpers.known_module import TWO

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.pairing import PairingCounts, pairing_counts, why_few_are_paired
from odsg_lightning.types import Detections

SAMPLE = box_sample(TWO, [0, 1])
CONFIG = AuditConfig()


def counts(boxes, scores, labels, **settings):
    detections = Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(scores), torch.tensor(labels)
    )
    return pairing_counts(SAMPLE, detections, AuditConfig(**settings))


def why(*images, paired=0, objects=8):
    return why_few_are_paired(paired, objects, images, CONFIG)


def test_labels_off_by_one():
    image = counts(TWO, [0.9, 0.8], [1, 2])
    assert (image.confident, image.other_class) == (2, 2)
    assert "threshold of 0.5: 2, of which 2 overlap an object of another class (are the labels off by one?)" in why(
        image
    )
    assert why(image).endswith("right class and place: there is none.")


def test_scores_below_the_threshold():
    image = counts([*TWO, [0, 0, 2, 2]], [0.3, 0.25, 0.4], [0, 1, 0])  # the last one is nowhere
    assert image == PairingCounts(0, 0, pytest.approx(0.3))
    assert why(image).endswith("threshold of 0.5: 0, of which 0 overlap an object of another class. Best score of a "
                               "detection of the right class and place: 0.3.")  # fmt: skip
    assert counts(TWO, [0.3, 0.25], [0, 1], score_threshold=0.2).confident == 2


def test_boxes_in_other_units_overlap_nothing():
    image = counts([[0.1, 0.1, 0.5, 0.5], [0.4, 0.3, 0.9, 0.8]], [0.9, 0.9], [0, 1])
    assert image.confident == 2
    assert "of which 0 overlap an object of another class. Best" in why(image)


def test_a_detection_of_the_right_class_over_another_object_is_not_of_another_class():
    sample = box_sample([TWO[0], TWO[0]], [0, 1])
    found = Detections(torch.tensor([TWO[0]], dtype=torch.float32), torch.tensor([0.9]), torch.tensor([1]))
    assert pairing_counts(sample, found, CONFIG).other_class == 0


def test_nothing_detected_at_all():
    image = counts([], [], [])
    assert (image.confident, image.other_class) == (0, 0)
    assert image.best_score != image.best_score
    assert "threshold of 0.5: 0" in why(image)


def test_images_are_added_up_and_those_of_an_earlier_call_named():
    line = why(PairingCounts(3, 1, 0.2), None, PairingCounts(2, 0, torch.nan))
    assert line.startswith("0 of 8 objects were paired with a detection.")
    assert "(in the 2 of 3 images audited just now): 5, of which 1 overlap an object of another class. " in line
    assert line.endswith("0.2.")
    assert "\n" not in line


@pytest.mark.parametrize(("paired", "said"), [(0, True), (1, True), (2, False), (8, False)])
def test_is_said_below_a_quarter_only(paired, said):
    assert (why(PairingCounts(0, 0, torch.nan), paired=paired) is not None) == said
