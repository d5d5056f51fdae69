"""Training with the callback and training without it: the same bits, also when the audit fails."""

import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.runs import module_like, quick_audit, shapes_data, trainer_with
from lightning.pytorch import Callback, seed_everything
from torch import nn

from odsg_lightning import resolve_adapter
from odsg_lightning.records.record import read_record


class LossRecorder(Callback):
    def __init__(self) -> None:
        self.losses = []

    def on_train_batch_end(self, trainer, module, outputs, *_):
        self.losses.append(outputs["loss"].item())


class BreaksHalfway:
    """Audits properly for a while, and leaves a mess behind when it fails."""

    def __init__(self, module, calls) -> None:
        self.inner, self.module, self.calls = resolve_adapter(module), module, calls

    def detect(self, images):
        self.calls.append(len(images))
        if self.breaks():
            self.module.train()
            next(self.module.parameters()).requires_grad_(False)
            self.module.register_forward_hook(lambda *_: None)
            torch.rand(3), random.random(), np.random.rand()
            raise ArithmeticError("broken on purpose")
        return self.inner.detect(images)

    def breaks(self):
        return len(self.calls) % 4 == 0


class BreaksWhenPixelsAreHidden(BreaksHalfway):
    """Detects properly in whole images and in noise, which come one by one."""

    def breaks(self):
        return self.calls[-1] > 1


def train(model, shapes_folder, callbacks, **settings):
    """Six steps with three validations; return everything that could differ."""
    seed_everything(7, verbose=False)
    module = module_like(model)
    for stage in module.detector.backbone.bottom_up.stages[-1:]:
        stage.append(nn.Dropout(0.2))
    recorder = LossRecorder()
    trainer = trainer_with([recorder, *callbacks], max_steps=6, **settings)
    trainer.fit(module, datamodule=shapes_data(shapes_folder))
    normalisations = [child for child in module.modules() if isinstance(child, nn.BatchNorm2d)]
    return {
        "losses": recorder.losses,
        "weights": module.state_dict(),
        "optimizer": trainer.optimizers[0].state_dict(),
        "batch norm": [child.running_mean.clone() for child in normalisations],
        "normalizer": getattr(module.detector, "loss_normalizer", None),
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),
        "python": random.getstate(),
        "modes": [child.training for child in module.modules()],
        "flags": [parameter.requires_grad for parameter in module.parameters()],
        "hooks": [len(child._forward_hooks) for child in module.modules()],
    }


def difference(first, second, path="run"):
    """Return where two nested results differ first, bit by bit; None if nowhere."""
    if isinstance(first, torch.Tensor):
        return None if torch.equal(first, second) else path
    if isinstance(first, dict):
        pairs = [(key, first[key], second[key]) for key in first] if first.keys() == second.keys() else [("keys", 0, 1)]
    elif isinstance(first, list | tuple):
        pairs = list(zip(range(len(first)), first, second, strict=True))
    else:
        return None if first == second else path
    return next((found for key, a, b in pairs if (found := difference(a, b, f"{path}/{key}"))), None)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["retinanet", "faster_rcnn"])
def test_training_is_bit_identical(kind, shapes_folder, request, tmp_path):
    model = request.getfixturevalue(f"trained_{kind}").model
    without = train(model, shapes_folder, [])
    assert len(without["losses"]) == 6
    assert without["batch norm"]

    audit = quick_audit(max_strips=2, save_records=True)  # with drift and what noise alone does to it, too
    audited = train(model, shapes_folder, [audit], default_root_dir=tmp_path)
    assert audit.n_validations == 3
    records = [read_record(path) for path in sorted(tmp_path.rglob("step_*.json"))]
    assert all(record.metrics["drift_noise/n_objects"] > 0 for record in records)
    assert [record.metrics["drift/n_objects"] > 0 for record in records] == [False, True, True]
    assert all(
        row.detected_again for record in records for row in record.objects if not row.missed
    )  # pixels were hidden
    assert audit.n_failed == 0
    assert difference(without, audited) is None

    for adapter in (BreaksHalfway, BreaksWhenPixelsAreHidden):
        calls = []
        failing = quick_audit(adapter=partial(adapter, calls=calls))
        with pytest.warns(RuntimeWarning, match="broken on purpose"):
            failed = train(model, shapes_folder, [failing])
        assert failing.n_failed == 3
        assert difference(without, failed) is None
        assert calls.count(1) > 3  # something had been audited before it broke


@pytest.mark.slow
def test_the_comparison_can_fail(trained_retinanet, shapes_folder):
    class DrawsOneNumber(Callback):
        def on_validation_epoch_end(self, *_):
            torch.rand(1)

    model = trained_retinanet.model
    assert difference(train(model, shapes_folder, []), train(model, shapes_folder, [DrawsOneNumber()])) is not None


@pytest.mark.slow
def test_also_in_a_fresh_process(trained_retinanet, shapes_folder, tmp_path):
    # TorchScript optimises a function after its first runs, and the audit runs some of the detector's: in a process in
    # which nothing has run yet, that must not change the training's last bits either.
    weights = tmp_path / "weights.pth"
    torch.save(trained_retinanet.model.state_dict(), weights)
    script = Path(__file__).parents[1] / "helpers" / "fresh_run.py"
    hashes = []
    for audits in ("0", "1"):
        command = [sys.executable, str(script), str(weights), str(shapes_folder), audits]
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
        audited, digest = result.stdout.strip().splitlines()[-1].split()
        assert int(audited) == 3 * int(audits)
        hashes.append(digest)
    assert hashes[0] == hashes[1]
