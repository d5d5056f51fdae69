"""The records that the callback writes beside the logs."""

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.known_detectors import box_sample
from helpers.known_module import TWO, DriftingModule, KnownModule, known_audit
from helpers.runs import trainer_with
from PIL import Image

from odsg_lightning.errors import UserInputError
from odsg_lightning.files import sha256_of
from odsg_lightning.names import EDGE_NAMES, IOF_NAMES, MAP_NAMES, OCCLUSION_NAMES
from odsg_lightning.records.maps_file import maps_beside
from odsg_lightning.records.record import read_record


class Watched(DriftingModule):
    """Logs what a real module logs, and something that belongs nowhere."""

    def validation_step(self, batch, _):
        self.log_dict({"val/map": 0.123456789, "val/none": math.nan, "val/infinite": math.inf, "other": 1.0})

    test_step = validation_step

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train/loss", loss)
        return loss


def fit(folder, module=None, **settings):
    audit = known_audit(**({"save_records": True} | settings))
    trainer = trainer_with([audit], folder)
    trainer.fit(module or Watched())
    return audit, trainer


def records(folder):
    return {path.name: read_record(path) for path in sorted(folder.rglob("audits/*.json"))}


def test_every_audit_is_a_record_with_maps(tmp_path):
    fit(tmp_path)
    (folder,) = tmp_path.rglob("audits")
    assert folder.parent == tmp_path / "logs" / "version_0"  # beside the event files
    names = [f"step_00000{step}{suffix}" for step in (1, 3) for suffix in (".json", ".maps.npz")]
    assert sorted(path.name for path in folder.iterdir()) == names
    record = records(tmp_path)["step_000003.json"]
    assert record.provenance["step"] == 3
    assert record.provenance["versions"]["torch"]
    assert record.fingerprint["n_samples"] == 2
    assert [row.key for row in record.objects] == [(1, 1), (1, 2)]
    assert all(set(row.iof) == set(IOF_NAMES) for row in record.objects)
    assert all(set(row.box_maps) == set(MAP_NAMES) for row in record.objects)
    assert all(set(row.edges) == set(EDGE_NAMES) for row in record.objects)
    for row in record.objects:  # it hardly looks at the pixels
        assert row.occlusion == pytest.approx({"sufficiency": 1, "necessity": 0}, abs=1e-3)
    assert {name.partition("/")[0] for row in record.objects for name in row.detected_again} == set(OCCLUSION_NAMES)
    maps = maps_beside(folder / "step_000003.json", record.maps)
    stored = maps.read((1, 2))
    expected = DriftingModule().weights_at(0.6)[1].abs().amax(1)
    shares = expected / expected.amax((1, 2), keepdim=True)
    np.testing.assert_allclose(stored.maps, shares.numpy(), atol=1e-3)
    with Image.open(io.BytesIO(stored.strip)) as picture:
        assert picture.width > 1200


def test_metrics_are_those_that_the_trainer_logged(tmp_path):
    _, trainer = fit(tmp_path)
    metrics = records(tmp_path)["step_000003.json"].metrics
    assert metrics["val/map"] == 0.123457  # which the module logs after the audit
    assert metrics["val/none"] is None
    assert metrics["train/loss"] == pytest.approx(0.7)  # before its last step
    assert metrics["drift/ssim"] == pytest.approx(float(trainer.callback_metrics["drift/ssim"]), abs=1e-6)
    named = {"iof/object", "iof/near", "maps/area_ratio", "occlusion/necessity", "audit/recall", "audit/defined"}
    assert named | {"audit/n_failed"} <= metrics.keys()
    assert not {"audit/seconds", "other", "val/infinite"} & metrics.keys()


def test_missed_object_is_in_the_record_and_has_no_maps(tmp_path):
    fit(tmp_path, KnownModule(scores=(0.95, 0.5)))
    (folder,) = tmp_path.rglob("audits")
    record = read_record(folder / "step_000001.json")
    assert [row.missed for row in record.objects] == [False, True]
    assert maps_beside(folder / "step_000001.json", record.maps).keys == {(1, 1)}


def test_the_same_run_writes_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        fit(tmp_path / name)
    found = [{path.name: sha256_of(path) for path in (tmp_path / name).rglob("audits/*")} for name in ("one", "two")]
    assert len(found[0]) == 4
    assert found[0] == found[1]


def test_validate_and_test_have_names_of_their_own(tmp_path):
    _, trainer = fit(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("step_*")}
    trainer.validate(Watched(), verbose=False)
    trainer.test(Watched(), verbose=False)
    assert {"validate.json", "test.json"} < records(tmp_path).keys()
    assert "test/map" not in records(tmp_path)["validate.json"].metrics
    assert {path: path.read_bytes() for path in tmp_path.rglob("step_*")} == before


def test_without_a_logger_they_stand_in_the_root_folder(tmp_path):
    trainer_with([known_audit(save_records=True)], default_root_dir=tmp_path).fit(Watched())
    assert sorted(path.name for path in (tmp_path / "audits").glob("*.json")) == [
        "step_000001.json",
        "step_000003.json",
    ]


@pytest.mark.parametrize("settings", [{"fast_dev_run": True}, {"limit_val_batches": 0}])
def test_nothing_is_written_without_an_audit(settings, tmp_path):
    trainer_with([known_audit(save_records=True)], default_root_dir=tmp_path, **settings).fit(Watched())
    assert not list(tmp_path.iterdir())


def test_only_audited_validations_are_recorded(tmp_path):
    fit(tmp_path, every_n_validations=2)
    assert list(records(tmp_path)) == ["step_000001.json"]


def test_failed_audit_leaves_no_record(tmp_path):
    class Fails(Watched):
        def detect(self, images):
            if self.number > 0.75:  # at the first audit
                raise ArithmeticError("the detector broke")
            return super().detect(images)

    with pytest.warns(RuntimeWarning, match="the detector broke"):
        fit(tmp_path, Fails())
    assert list(records(tmp_path)) == ["step_000003.json"]


class TestFolderThatCannotBeWritten:
    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "audits").write_text("a file where the folder should be")
        return tmp_path

    def fit(self, folder, **settings):
        audit = known_audit(save_records=True, **settings)
        trainer = trainer_with([audit], default_root_dir=folder)
        trainer.fit(DriftingModule())
        return audit, trainer

    def test_warns_counts_and_training_goes_on(self, folder):
        with pytest.warns(RuntimeWarning, match="its record is not written") as warned:
            audit, trainer = self.fit(folder)
        assert sum("File exists" in str(warning.message) for warning in warned) == 2
        assert (trainer.global_step, audit.n_failed) == (4, 2)
        assert trainer.callback_metrics["audit/n_failed"] == 1  # as known when the second audit was logged
        assert trainer.callback_metrics["drift/n_objects"] == 2  # the audits themselves are good

    def test_raise_stops(self, folder):
        with pytest.raises(RuntimeError, match="audit failed at step 2") as raised:
            self.fit(folder, on_error="raise")
        assert isinstance(raised.value.__cause__, UserInputError)


def test_logs_that_are_not_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = trainer_with([known_audit(save_records=True)], default_root_dir="memory://run")
    with pytest.warns(RuntimeWarning, match="a local folder for the logs, but got memory://run"):
        trainer.fit(DriftingModule())
    assert not list(tmp_path.iterdir())


def test_disk_that_is_full_leaves_neither_half(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("odsg_lightning.records.record.write_record", full)
    with pytest.warns(RuntimeWarning, match="No space left on device"):
        fit(tmp_path)
    (folder,) = tmp_path.rglob("audits")
    assert not list(folder.glob("*.json"))
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_category_from_a_file_is_stored_as_it_is(tmp_path):
    name = '<img src=x onerror=alert(1)>|"\\'
    fit(tmp_path, audit_samples=[replace(box_sample(TWO, [0, 1]), category_names=(name, "cat"))])
    assert records(tmp_path)["step_000001.json"].objects[0].category == name


def test_nothing_detected_is_a_record_too(tmp_path):
    fit(tmp_path, KnownModule(scores=(0.1, 0.1)))
    record = records(tmp_path)["step_000001.json"]
    assert all(row.missed for row in record.objects)
    assert record.metrics["iof/object"] is None
    assert json.loads((next(tmp_path.rglob("audits")) / "step_000001.json").read_text())["maps"]["file"]


def test_random_numbers_are_left_alone(tmp_path):
    state = torch.get_rng_state()
    fit(tmp_path, KnownModule())
    with_records = torch.get_rng_state()
    torch.set_rng_state(state)
    trainer_with([]).fit(KnownModule())
    assert torch.equal(torch.get_rng_state(), with_records)
