"""An RT-DETR of transformers in a plain LightningModule is audited while it is fine-tuned."""

import pytest
import torch
from helpers.as_truth import detections_as_truth
from helpers.runs import trainer_with
from helpers.tiny_detr import processor_of, tiny_transformers
from lightning.pytorch import LightningModule, seed_everything
from torch.utils.data import DataLoader

from odsg_lightning import ODSmoothGradCallback
from odsg_lightning.cli import main
from odsg_lightning.records.record import read_record

pytest.importorskip("transformers")

from odsg_lightning.detectors.transformers import TransformersAdapter


class FineTuning(LightningModule):
    """What a user writes who knows nothing of audits."""

    def __init__(self):
        super().__init__()
        self.model = tiny_transformers("rt_detr")
        self.processor = processor_of("rt_detr")

    def loss(self, batch):
        images, labels = zip(*batch, strict=True)
        return self.model(**self.processor(images=list(images), return_tensors="pt"), labels=list(labels)).loss

    def training_step(self, batch, _):
        return self.loss(batch)

    def validation_step(self, batch, _):
        self.log("val/loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-5)

    def train_dataloader(self):
        labels = {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.3]])}
        generator = torch.Generator().manual_seed(4)
        samples = [(255 * torch.rand(3, 48, 80, generator=generator), labels) for _ in range(4)]
        return DataLoader(samples, batch_size=2, collate_fn=list)

    val_dataloader = train_dataloader


def train(folder=None, **more):
    seed_everything(7, verbose=False)
    module = FineTuning()
    settings = {"n_samples": 2, "score_threshold": 0.2, "save_records": True, "on_error": "raise", "max_strips": 1}
    truth = detections_as_truth(module, 48, 80, lambda found: found[[0, len(found) - 1]])
    audit = ODSmoothGradCallback(audit_samples=[truth], **settings, **more)
    trainer = trainer_with([audit] if folder else [], folder, max_steps=2, val_check_interval=2)
    trainer.fit(module)
    return audit, module.state_dict(), trainer.optimizers[0].state_dict()["state"], torch.get_rng_state()


def test_audited_in_training_which_it_leaves_alone_and_read_by_the_gate(tmp_path, capsys):
    audit, weights, moments, stream = train(tmp_path)
    assert (audit.n_validations, audit.n_failed) == (1, 0)
    assert audit.last["audit/recall"] == 1
    assert audit.last["audit/defined"] > 0

    _, expected_weights, expected_moments, expected_stream = train()
    assert all(torch.equal(weights[name], value) for name, value in expected_weights.items())
    assert all(torch.equal(moments[index]["exp_avg"], expected_moments[index]["exp_avg"]) for index in moments)
    assert moments
    assert torch.equal(stream, expected_stream)

    (path,) = tmp_path.rglob("step_*.json")
    assert [row.missed for row in read_record(path).objects] == [False, False]
    baseline = tmp_path / "baseline.json"
    assert main(["baseline", "accept", str(path), "-o", str(baseline), "--reason", "the first"]) == 0
    capsys.readouterr()
    assert main(["gate", str(baseline), str(path)]) in (0, 1)
    assert "occlusion/sufficiency" in capsys.readouterr().out


def test_through_which_graph_is_in_the_record_and_the_gate_tells_them_apart(tmp_path, capsys):
    def whole(module):
        return TransformersAdapter(module.model, module.processor, through_refinement=True)

    _, *first = train(tmp_path / "last")
    audit, *second = train(tmp_path / "whole", adapter=whole)
    assert audit.n_failed == 0
    assert all(torch.equal(first[0][name], value) for name, value in second[0].items())
    (last,), (through,) = (list((tmp_path / name).rglob("step_*.json")) for name in ("last", "whole"))
    assert "detector/through_refinement" not in read_record(last).fingerprint
    assert read_record(through).fingerprint["detector/through_refinement"] is True
    baseline = str(tmp_path / "baseline.json")
    assert main(["baseline", "accept", str(last), "-o", baseline, "--reason", "the first"]) == 0
    capsys.readouterr()
    assert main(["gate", baseline, str(through)]) == 3  # they cannot be compared
    assert "detector/through_refinement" in capsys.readouterr().err
    again, *_ = train(tmp_path / "again", adapter=whole, reference=through)  # such a record serves as a reference
    assert again.last["drift_ref/n_objects"] > 0
    assert again.last["drift_ref/pearson"] == pytest.approx(0, abs=1e-6)
