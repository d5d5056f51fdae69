"""A right detector passes every check, as it is, inside a module, and real; and the findings as a person gets them."""

import copy

import pytest
import torch
from helpers.blob_detector import BOXES, LABELS, BlobDetector, blobs_image
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from odsg_lightning import check_adapter
from odsg_lightning.adapter_check.look import confidence
from odsg_lightning.adapter_check.result import AdapterCheck, Finding
from odsg_lightning.detectors.detectron2 import Detectron2Adapter
from odsg_lightning.errors import UserInputError
from odsg_lightning.types import AuditSample

TRUTH = {"boxes": BOXES, "labels": LABELS}
NAMES = {
    *("outputs", "mode", "repeatable", "differentiable", "finite differences", "box format", "box frame", "scores"),
    *("labels", "image range", "channel order", "batch", "image sizes", "state"),
}


class Adapter:
    def __init__(self, model):
        self.model = model

    def detect(self, images):
        return self.model.detect(images)


def sample():
    masks = torch.zeros(2, 80, 96, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, BOXES, strict=True):
        mask[y0:y1, x0:x1] = True
    boxes, labels = torch.tensor(BOXES, dtype=torch.float32), torch.tensor(LABELS)
    return AuditSample(image=blobs_image(), boxes=boxes, labels=labels, masks=masks, image_id=1, annotation_ids=(1, 2))


@pytest.mark.parametrize("hints", [{"annotations": TRUTH}, {"annotations": sample(), "num_classes": 2}])
def test_a_right_detector_passes_every_check(hints):
    check = check_adapter(BlobDetector(), blobs_image(), **hints)
    assert check.ok
    assert {finding.check: finding.status for finding in check.findings} == dict.fromkeys(NAMES, "ok")
    check.raise_for_failures()


def test_without_annotations_nothing_is_claimed_that_cannot_be_told():
    check = check_adapter(BlobDetector(), blobs_image())
    assert not check.of_status("failure", "warning")
    assert {finding.check for finding in check.of_status("undecided")} == {"channel order"}


def test_gradients_are_compared_in_double_precision_and_otherwise_in_the_models_own():
    class CannotBeCopied(BlobDetector):
        def __deepcopy__(self, memo):
            raise TypeError

    words = {
        kind: check_adapter(kind(), blobs_image())["finite differences"] for kind in (BlobDetector, CannotBeCopied)
    }
    assert {finding.status for finding in words.values()} == {"ok"}
    assert words[BlobDetector].words.endswith("in float64.")
    assert words[CannotBeCopied].words.endswith("in the precision of the model.")


def test_a_module_in_training_is_checked_by_its_adapter_and_left_as_it_was():
    class Mine(LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.drop = BlobDetector(), nn.Dropout(0.5)

    module = Mine().train()
    module.trainer = Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    module.model.gain.grad = torch.ones(())
    before, random = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    check = check_adapter(module, blobs_image(), adapter=lambda module: Adapter(module.model), annotations=TRUTH)
    assert {finding.status for finding in check.findings} == {"ok"}
    assert module.training
    assert module.drop.training
    assert module.model.gain.requires_grad
    assert module.model.gain.grad == 1
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())


def test_an_adapter_that_raises_is_a_finding():
    (finding,) = check_adapter(nn.Identity(), blobs_image(), adapter=lambda module: module.no_such_part).findings
    assert (finding.check, finding.status) == ("adapter", "failure")
    assert finding.words.startswith("The adapter raised AttributeError: ")
    (finding,) = check_adapter(nn.Identity(), blobs_image(), adapter=lambda module: 3).findings
    assert finding.words.startswith("Expected the adapter to return an object with a method `detect(images)")


def test_the_callers_own_mistakes_are_raised():
    with pytest.raises(UserInputError, match="Expected pixels from 0 to 255"):
        check_adapter(BlobDetector(), blobs_image() / 255)
    with pytest.raises(UserInputError, match=r"a mapping with 'boxes' \[G, 4\] XYXY and 'labels'"):
        check_adapter(BlobDetector(), blobs_image(), annotations={"boxes": BOXES})


def test_findings_are_a_table_and_an_error():
    check = AdapterCheck((Finding("scores", "failure", "[bold]A score of 3.2.\x1b"), Finding("labels", "ok", "Fine.")))
    assert max(map(len, str(check).splitlines())) <= 100
    assert "[bold]A score of 3.2.\ufffd" in str(check)
    assert not check.ok
    assert check["labels"].words == "Fine."
    with pytest.raises(UserInputError, match=r"cannot be audited as it is. scores: \[bold\]A score") as raised:
        check.raise_for_failures()
    assert "labels" not in str(raised.value)
    with pytest.raises(KeyError):
        check["boxes"]


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["trained_retinanet", "trained_faster_rcnn"])
def test_real_trained_detectors_raise_no_alarm(fixture, request):
    trained = request.getfixturevalue(fixture)

    def sure_of(sample):
        with torch.no_grad():
            (found,) = Detectron2Adapter(trained.model).detect([sample.image])
        return confidence(found, sample)

    sample = max(trained.samples, key=sure_of)  # as somebody would choose who wants to be told something
    for hints in ({}, {"annotations": sample, "num_classes": 3}):
        check = check_adapter(trained.model, sample.image, **hints)
        alarms = check.of_status("failure", "warning")
        if fixture == "trained_faster_rcnn":  # whose proposals are detached: how much is missing hangs on the training
            alarms = [one for one in alarms if one.check != "finite differences" or "proposals" not in one.words]
        assert not alarms, str(check)
        undecided = {finding.check for finding in check.of_status("undecided")}
        assert undecided <= {"image range", "channel order", "box format", "box frame"}, str(check)
