"""What an audit explains: the outputs, the logits behind them, or the anchor or region of every object."""

from dataclasses import replace

import pytest
import torch
from helpers.candidates import WithLogits, candidates
from helpers.known_detectors import IMAGE, LinearDetector, two_objects
from helpers.records import as_baseline
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torchvision.ops import box_iou

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.engine_notice import EngineNotice
from odsg_lightning.audit.loop import audit
from odsg_lightning.audit.measure import fingerprint, object_maps, object_row
from odsg_lightning.audit.strips import audited_strip
from odsg_lightning.demo.recipe import RECIPES, demo_data
from odsg_lightning.demo.shapes import make_shapes
from odsg_lightning.detectors.detectron2 import Detectron2Adapter
from odsg_lightning.errors import UserInputError
from odsg_lightning.gate.comparison import compare
from odsg_lightning.records.means import audit_counts
from odsg_lightning.records.record import AuditRecord, read_record, write_record
from odsg_lightning.saliency.noise import image_generator
from odsg_lightning.saliency.smoothgrad import smoothgrad
from odsg_lightning.training.module import DetectionModule
from odsg_lightning.types import AuditSample

ORIGIN = dict.fromkeys(("checkpoint", "checkpoint_sha256", "step", "git_commit", "git_dirty")) | {"versions": {}}


def sample_of(detector, labels=None):
    """Its two detections, annotated."""
    (found,) = detector.detect([IMAGE])
    labels = found.labels if labels is None else torch.tensor(labels)
    masks = torch.zeros(len(found), *IMAGE.shape[1:], dtype=torch.bool)
    for mask, box in zip(masks, found.boxes.round().int().tolist(), strict=True):
        mask[box[1] : box[3], box[0] : box[2]] = True
    return AuditSample(IMAGE, found.boxes.detach(), labels, masks, 7, (1, 2))


def settings(target, **more):
    return AuditConfig(**{"target": target, "n_samples": 2, "occlusion": False, "engine": "autograd"} | more)


def test_logits_are_those_of_the_candidate_that_a_detection_came_from():
    detector = WithLogits()
    sample = sample_of(detector)
    labels = detector.labels
    outputs = detector.outputs_of(candidates([0, 1], labels))
    (numbers,) = outputs.detect([IMAGE])
    expected = smoothgrad(outputs, IMAGE, numbers, [0, 1], generator=image_generator(0, 7), n_samples=2, match_iou=None)
    items = list(audit(detector, [sample], settings("logit")))
    for item, maps in zip(items, expected, strict=True):
        assert torch.equal(item.explained.saliency.maps, maps.maps)
        assert not item.missed
    (found,) = detector.detect([IMAGE])
    assert [item.explained.score for item in items] == pytest.approx(found.scores.tolist())  # not the logit
    assert torch.equal(torch.stack([item.explained.box for item in items]), found.boxes)


def test_of_an_object_that_is_missed_the_candidate_that_fits_it_is_explained():
    detector = WithLogits()
    sample = sample_of(detector, labels=[2, 2])  # which it does not find
    items = list(audit(detector, [sample], settings("ground_truth")))
    assert [item.missed for item in items] == [True, True]
    outputs = detector.outputs_of(candidates([1, 1], sample.labels))
    (numbers,) = outputs.detect([IMAGE])
    for index, item in enumerate(items):
        assert item.explained.undetected
        assert item.explained.score == pytest.approx(0.8)  # the probability of candidate 1
        assert torch.equal(item.explained.box, numbers.boxes[index])
    overlaps = box_iou(sample.boxes, numbers.boxes).diagonal().tolist()  # the first fits nothing
    assert [item.explained.iou for item in items] == pytest.approx(overlaps)
    assert object_maps(items[0]) is not None
    assert audited_strip(items[0], settings("ground_truth")).ndim == 3


def test_what_is_found_is_told_of_the_detection_and_explained_by_its_candidate():
    detector = WithLogits()
    sample = sample_of(detector)
    (found,) = detector.detect([IMAGE])
    items = list(audit(detector, [sample], settings("ground_truth")))
    assert [item.missed for item in items] == [False, False]
    assert [item.explained.score for item in items] == pytest.approx(found.scores.tolist())


def test_undetected_objects_are_in_the_record_and_count_as_missed(tmp_path):
    detector = WithLogits()
    detector.base[:, 4] -= 0.1  # its scores are below 1 on every noisy copy
    sample = sample_of(detector, labels=[0, 2])
    config = settings("ground_truth", occlusion=True)
    rows = tuple(object_row(item) for item in audit(detector, [sample], config))
    assert sorted(row.missed for row in rows) == [False, True]
    record = AuditRecord(fingerprint("0" * 64, config), ORIGIN, rows)
    write_record(record, tmp_path / "r.json")
    again = read_record(tmp_path / "r.json")
    assert again == record
    counts = audit_counts(again.objects)
    assert (counts["audit/recall"], counts["audit/defined"], counts["audit/match_rate"]) == (0.5, 1.0, 1.0)
    baseline = as_baseline(replace(again, further=(replace(again, provenance={**ORIGIN, "step": 3}),)))
    write_record(baseline, tmp_path / "b.json")
    assert read_record(tmp_path / "b.json") == baseline
    result = compare(baseline, again)
    values = {check.name: check for check in result.checks}
    assert values["iof/near"].n_objects == 2  # the missed one, too
    assert (result.newly_missed, result.newly_undefined) == ((), ())


def test_records_of_different_targets_are_not_comparable():
    detector = WithLogits()
    sample = sample_of(detector)
    logit, truth = (
        AuditRecord(
            fingerprint("0" * 64, config), ORIGIN, tuple(object_row(i) for i in audit(detector, [sample], config))
        )
        for config in (settings("logit"), settings("ground_truth"))
    )
    result = compare(as_baseline(logit), truth)
    assert result.verdict == "not comparable"
    assert "target" in " ".join(result.reasons)


def test_a_detector_that_returns_detections_alone_is_refused_before_and_during_an_audit():
    detector = LinearDetector(*two_objects())
    for target in ("logit", "ground_truth"):
        config = settings(target)
        with pytest.raises(UserInputError, match="LinearDetector returns detections alone: target='output'"):
            list(audit(detector, [sample_of(detector)], config))
        with pytest.raises(MisconfigurationException, match="target='output' explains these"):
            EngineNotice(config).log_once(detector)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(RECIPES))
def test_before_its_first_step_the_demonstration_has_a_map_of_every_number_of_every_object(name, tmp_path):
    torch.manual_seed(0)
    module = DetectionModule(RECIPES[name][0], num_classes=3).eval()
    adapter = Detectron2Adapter(module.detector)
    data = demo_data(make_shapes(tmp_path / "shapes", n_train=1))  # its validation images are the demonstration's
    data.setup("fit")
    samples = data.audit_samples()
    config = AuditConfig(explainer="gradient", target="ground_truth", occlusion=False)
    rows = [object_row(item) for item in audit(adapter, samples, config)]
    assert len(rows) == sum(len(sample.labels) for sample in samples) > 20
    assert all(row.missed and row.undetected and row.undefined == () for row in rows)
