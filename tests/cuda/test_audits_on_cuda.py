"""Audits on a GPU: they leave a training alone, run in full precision, and measure what a CPU measures."""

import gc
import os

import pytest
import torch
from helpers.runs import module_like, quick_audit, shapes_data, trainer_with
from lightning.pytorch import Callback, seed_everything

from odsg_lightning.cli import main
from odsg_lightning.records.means import audit_means
from odsg_lightning.records.record import read_record


class Notes(Callback):
    """Each step's loss, and the GPU's memory after each validation."""

    def __init__(self):
        self.losses, self.memory = [], []

    def on_train_batch_end(self, trainer, module, outputs, *_):
        self.losses.append(outputs["loss"].detach())

    def on_train_batch_start(self, trainer, module, *_):
        module.zero_grad()
        gc.collect()
        self.memory.append(torch.cuda.memory_allocated())


def fit(model, shapes_folder, callbacks, **settings):
    seed_everything(7, verbose=False)
    module, notes = module_like(model), Notes()
    trainer = trainer_with([notes, *callbacks], accelerator="gpu", **({"max_steps": 6} | settings))
    trainer.fit(module, datamodule=shapes_data(shapes_folder))
    state = [value.cpu() for value in module.state_dict().values()]
    return notes, [*torch.stack(notes.losses).cpu(), *state, torch.cuda.get_rng_state(), torch.get_rng_state()]


@pytest.mark.slow
def test_training_is_bit_identical(trained, shapes_folder, tmp_path, monkeypatch):
    # Whatever Detectron2 calls that cannot be made deterministic would differ between two trainings without an audit.
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    runs = []
    try:
        for audits in ([], [], [quick_audit(save_records=True, max_strips=1)]):
            settings = {"default_root_dir": tmp_path, "deterministic": "warn"}
            runs.append(fit(trained.model, shapes_folder, audits, **settings)[1])
    finally:
        torch.use_deterministic_algorithms(False)
    assert audits[0].n_validations == 3
    assert audits[0].n_failed == 0
    plain, again, audited = runs
    if not all(map(torch.equal, plain, again)):
        pytest.skip("two trainings without an audit differ on this GPU: nothing to compare with")
    assert all(map(torch.equal, plain, audited))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_mixed_precision_is_audited_in_single(trained, precision, shapes_folder, tmp_path):
    seen, audit = [], quick_audit(save_records=True, max_strips=1, n_samples=4, on_error="raise")

    def see(module, args, output):
        if not module.training:
            seen.append({feature.dtype for feature in output.values()})

    class Watches(Callback):
        def on_validation_epoch_end(self, trainer, module):  # before the audit, which comes last
            self.handle = module.detector.backbone.register_forward_hook(see)

        def on_validation_end(self, trainer, module):
            self.handle.remove()

    module = module_like(trained.model)
    seed_everything(7, verbose=False)
    settings = {"precision": precision, "max_steps": 2, "num_sanity_val_steps": 0, "default_root_dir": tmp_path}
    trainer = trainer_with([Watches(), audit], accelerator="gpu", **settings)
    trainer.fit(module, datamodule=shapes_data(shapes_folder))
    assert audit.n_audits == 1
    assert seen
    assert all(kinds == {torch.float32} for kinds in seen)
    assert audit.last["audit/n_objects"] > 0
    assert 0 < audit.last["iof/object"] <= 1


@pytest.mark.slow
def test_memory_is_flat(trained_retinanet, shapes_folder, tmp_path):
    count = int(os.environ.get("AUDITS", 8))
    audit = quick_audit(max_strips=1, on_error="raise")
    settings = {"max_steps": count, "val_check_interval": 1, "default_root_dir": tmp_path}
    notes, _ = fit(trained_retinanet.model, shapes_folder, [audit], **settings)
    assert audit.n_audits == count
    assert max(notes.memory[count // 2 :]) - min(notes.memory[count // 2 :]) < 2**20


@pytest.mark.slow
def test_a_record_of_a_gpu_says_what_one_of_a_cpu_says(trained, shapes_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = module_like(trained.model)
    trainer = trainer_with([], max_steps=1, limit_train_batches=1)
    trainer.strategy.connect(module)
    trainer.save_checkpoint("model.ckpt")
    annotations, images = shapes_folder / "annotations" / "val.json", shapes_folder / "val"
    choose = ["audit-set", "--annotations", annotations, "--images", images, "-o", "set.json", "--count", "4"]
    assert main([*map(str, choose), "--min-size", "128"]) == 0
    records = []
    for device in ("cpu", "cuda"):
        command = ["audit", "model.ckpt", "--audit-set", "set.json", "-o", f"{device}.json", "--device", device]
        assert main([*command, "--score-threshold", "0.3", "--n-samples", "4"]) == 0
        records.append(read_record(tmp_path / f"{device}.json"))
    cpu, gpu = records
    assert [row.missed for row in gpu.objects] == [row.missed for row in cpu.objects]
    expected, found = audit_means(cpu.objects), audit_means(gpu.objects)
    for name in ("iof/object", "iof/edge", "position/mean", "occlusion/sufficiency", "occlusion/necessity"):
        assert found[name] == pytest.approx(expected[name], abs=0.01), name
    assert main(["gate", "cpu.json", "gpu.json"]) in (0, 3)  # of four images: no regression, or too few to tell
