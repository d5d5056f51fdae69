"""What the last version wrote still loads: checkpoint, record, baseline, the class paths of a configuration."""

import json
import lzma
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from helpers.runs import shapes_data, trainer_with

from odsg_lightning import DetectionModule, ODSmoothGradCallback
from odsg_lightning.checkpoints.detector import load_detector
from odsg_lightning.cli import main
from odsg_lightning.demo.shapes import make_shapes
from odsg_lightning.names import PARAMETERS
from odsg_lightning.records.maps_file import maps_beside
from odsg_lightning.records.record import read_record

HERE = Path(__file__).parent / "last_version"
RECORD = HERE / "step_000003.json"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("last") / "last.ckpt"
    path.write_bytes(lzma.decompress((HERE / "checkpoint.ckpt.xz").read_bytes()))
    return path


def audit():
    return ODSmoothGradCallback(
        n_samples=2, score_threshold=0.0, pair_iou=0.0, max_objects_per_image=1, reseeded_images=1, max_strips=0
    )


def test_the_detector_is_loaded_from_a_checkpoint(checkpoint):
    module = DetectionModule.load_from_checkpoint(checkpoint, map_location="cpu")
    assert module.hparams["num_classes"] == 3
    assert load_detector(checkpoint).state_dict().keys() == module.state_dict().keys()


def test_the_callback_finds_its_state(checkpoint):
    states, callback = torch.load(checkpoint, weights_only=True)["callbacks"], audit()
    state = states[callback.state_key]  # under the very same key
    callback.load_state_dict(state)
    restored = callback.state_dict()
    assert restored["n_validations"] == 2
    for name in ("previous", "reference"):
        for part, values in state["drift"][name].items():
            torch.testing.assert_close(restored["drift"][name][part], values, rtol=0, atol=0, equal_nan=True)
            assert len(values)


@pytest.mark.slow
def test_a_training_is_resumed(checkpoint, shapes_folder):
    module = DetectionModule.load_from_checkpoint(checkpoint, optimizer=lambda p: torch.optim.SGD(p, lr=1e-4))
    callback = audit()
    trainer = trainer_with([callback], max_steps=6, num_sanity_val_steps=0)
    trainer.fit(module, shapes_data(shapes_folder, audit_images=2), ckpt_path=checkpoint)
    assert trainer.global_step == 6
    assert (callback.n_validations, callback.n_failed) == (3, 0)
    assert "drift_noise/pearson" in trainer.callback_metrics


def test_a_record_is_read_with_its_maps():
    old, record = json.loads(RECORD.read_text()), read_record(RECORD)
    assert old["schema"] == "odsg-audit-record/1"
    assert [row.matched_samples for row in record.objects] == [row["matched_passes"] for row in old["objects"]]
    near = {f"{parameter}/near": None for parameter in PARAMETERS}
    assert [dict(row.iof) for row in record.objects] == [{**row["iof"], **near} for row in old["objects"]]
    assert record.metrics["audit/recall"] == old["metrics"]["audit/coverage"]
    assert record.metrics["drift/pearson"] == pytest.approx(1 - old["metrics"]["drift/pearson"])
    assert record.metrics["drift_noise/ssim"] == pytest.approx(1 - old["metrics"]["drift_floor/ssim"])
    assert maps_beside(RECORD, record.maps).keys == set(record.by_key)


def test_gate_and_report_take_them(tmp_path, capsys):
    for path in HERE.glob("*.json"):
        shutil.copy(path, tmp_path)
    baseline, candidate = str(tmp_path / "baseline.json"), str(tmp_path / "step_000003.json")
    assert main(["gate", baseline, candidate]) == 3
    told = capsys.readouterr().err
    assert "both records are of an earlier version, which did not measure them. Audit both checkpoints again" in told
    config = tmp_path / "gate.yaml"
    config.write_text(f"checks: {told.split('`checks: ')[1].split('`')[0]}\n")  # as the message says
    assert main(["gate", baseline, candidate, "--config", str(config)]) == 0
    assert main(["report", baseline, candidate, "-o", str(tmp_path / "page.html")]) == 0
    accepted = read_record(tmp_path / "baseline.json")
    assert accepted.accepted[-1]["record_sha256"] == accepted.content_sha256


def test_class_paths_of_a_saved_configuration_load(tmp_path, monkeypatch):
    config = yaml.safe_load((HERE / "config.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    make_shapes("shapes", n_train=8, n_val=4, size=64, seed=1)
    (callback,) = config["trainer"]["callbacks"]
    assert callback["class_path"] == "odsg_lightning.ODSmoothGradCallback"
    for old, new in (("samples", "audit_samples"), ("floor_images", "reseeded_images"), ("method", "explainer")):
        callback["init_args"][new] = callback["init_args"].pop(old)
    for path in (callback["class_path"], "odsg_lightning.training.callback.ODSmoothGradCallback"):
        callback["class_path"] = path
        Path("config.yaml").write_text(yaml.safe_dump(config))
        assert main(["fit", "--config", "config.yaml", "--print_config"]) == 0


def test_arguments_with_another_name_are_refused_with_the_new_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", str(HERE / "config.yaml")]) == 2
    message = capsys.readouterr().err
    assert "samples is called audit_samples now" in message
    assert "floor_images is called reseeded_images now" in message
    assert "method is called explainer now" in message
