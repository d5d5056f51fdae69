"""A torchvision detector in a plain LightningModule is audited while it is fine-tuned."""

import pytest
import torch
from helpers.as_truth import detections_as_truth
from helpers.runs import trainer_with
from helpers.tiny_torchvision import tiny_torchvision
from lightning.pytorch import LightningModule, seed_everything
from torch.utils.data import DataLoader

from odsg_lightning import ODSmoothGradCallback
from odsg_lightning.cli import main
from odsg_lightning.records.record import read_record


class FineTuning(LightningModule):
    """What a user writes who knows nothing of audits."""

    def __init__(self, kind):
        super().__init__()
        self.detector = tiny_torchvision(kind, size=64)
        self.first_label = 0 if kind in ("retinanet", "fcos") else 1

    def training_step(self, batch, _):
        images, targets = zip(*batch, strict=True)
        loss = sum(self.detector(list(images), list(targets)).values())
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, _):
        self.detector([image for image, _ in batch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 1e-5, momentum=0.9)

    def train_dataloader(self):
        box, label = torch.tensor([[10.0, 12, 30, 40]]), torch.tensor([self.first_label])
        generator = torch.Generator().manual_seed(4)
        images = [torch.rand(3, 64, 80, generator=generator) for _ in range(4)]
        masks = torch.zeros(1, 64, 80, dtype=torch.uint8)
        samples = [(image, {"boxes": box, "labels": label, "masks": masks}) for image in images]
        return DataLoader(samples, batch_size=2, collate_fn=list)

    val_dataloader = train_dataloader


def train(kind, folder=None):
    seed_everything(7, verbose=False)
    module = FineTuning(kind)
    settings = {"n_samples": 2, "score_threshold": 0.2, "save_records": True, "on_error": "raise", "max_strips": 1}
    truth = detections_as_truth(module, 64, 80, lambda found: found[:2])
    audit = ODSmoothGradCallback(audit_samples=[truth], **settings)
    trainer = trainer_with([audit] if folder else [], folder, max_steps=2, val_check_interval=1)
    trainer.fit(module)
    return audit, module.state_dict(), trainer.optimizers[0].state_dict()["state"], torch.get_rng_state()


@pytest.mark.parametrize("kind", ["retinanet", "ssd", "mask_rcnn"])
def test_audited_in_training_which_it_leaves_alone_and_read_by_the_gate(kind, tmp_path, capsys):
    audit, weights, momenta, stream = train(kind, tmp_path)
    assert (audit.n_validations, audit.n_failed) == (2, 0)
    assert audit.last["audit/recall"] == 1
    assert audit.last["audit/defined"] > 0

    _, expected_weights, expected_momenta, expected_stream = train(kind)
    assert all(torch.equal(weights[name], value) for name, value in expected_weights.items())
    assert all(torch.equal(momenta[i]["momentum_buffer"], expected_momenta[i]["momentum_buffer"]) for i in momenta)
    assert momenta
    assert torch.equal(stream, expected_stream)

    first, second = sorted(tmp_path.rglob("step_*.json"))
    assert [row.missed for row in read_record(second).objects] == [False, False]
    baseline = tmp_path / "baseline.json"
    assert main(["baseline", "accept", str(first), "-o", str(baseline), "--reason", "the first step"]) == 0
    capsys.readouterr()
    assert main(["gate", str(baseline), str(second)]) in (0, 1)
    assert "occlusion/sufficiency" in capsys.readouterr().out
