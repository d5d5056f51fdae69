"""What the callback logs of the drift of its maps, over audits, failures and resumed runs."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.known_detectors import box_sample
from helpers.known_module import HIDDEN, TWO, DriftingModule, KnownModule, known_audit
from helpers.runs import read_events, trainer_with
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from odsg_lightning.callback.drift_log import DriftLog
from odsg_lightning.errors import BrokenInputError
from odsg_lightning.metrics.drift import drift_means, map_drift
from odsg_lightning.records.maps_file import ObjectMaps
from odsg_lightning.records.record import read_record, write_record
from odsg_lightning.saliency.masks import binarise


def fit(module, *callbacks, folder=None, max_steps=3, checkpoint=None, **settings):
    settings = {"val_check_interval": 1, "num_sanity_val_steps": 0} | settings
    trainer = trainer_with([*callbacks], folder, max_steps=max_steps, **settings)
    trainer.fit(module, ckpt_path=checkpoint)
    return trainer


def drift_curves(folder):
    """Every drift value by name and step; NaN as None, so that curves can be compared."""
    events = read_events(folder)
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("drift")]
    return {
        tag: {event.step: None if math.isnan(event.value) else event.value for event in events.Scalars(tag)}
        for tag in tags
    }


def expected_drift(number, other, objects=2):
    """Of the known weights, without the callback."""
    maps = [DriftingModule().weights_at(n).abs().amax(2)[:objects] for n in (number, other)]
    return drift_means(map_drift(*maps, *(binarise(one, 0, 0.32) for one in maps)))


def test_values_against_the_audit_before_and_the_first(tmp_path):
    fit(DriftingModule(), known_audit(), folder=tmp_path)
    curves = drift_curves(tmp_path)
    assert len(curves) == 3 * 19
    for name, curve in curves.items():
        if name.endswith("n_objects"):
            assert list(curve.values()) == ([2, 2, 2] if name.startswith("drift_noise") else [0, 2, 2])
        elif name.startswith("drift_noise"):  # noise does nothing to a linear detector
            assert list(curve.values()) == [0, 0, 0]
        else:
            assert [value is None for value in curve.values()] == [True, False, False], name
    audits = [0.9, 0.8, 0.7]  # the trained number
    for prefix, other in (("drift", 0.8), ("drift_ref", 0.9)):
        for name, value in expected_drift(audits[2], other).items():
            assert curves[f"{prefix}/{name}"][2] == pytest.approx(float(value), abs=2e-3), name  # half precision
    assert curves["drift/pearson"][2] < curves["drift_ref/pearson"][2]


class FindsMore(DriftingModule):
    """Detects so many objects at each audit."""

    def __init__(self, *counts):
        super().__init__()
        self.counts = counts

    def detect(self, images):
        audit = round((1 - float(self.number)) / 0.1) - 1
        self.known.base[:, 4] = torch.tensor([0.97 if n < self.counts[audit] else 0.1 for n in range(2)])
        return super().detect(images)


@pytest.mark.parametrize(
    ("counts", "compared"),
    [((0, 0, 2, 2, 2), [0, 0, 0, 2, 2]), ((1, 2, 2, 0, 2), [0, 1, 1, 0, 1]), ((0, 1, 0, 2, 2), [0, 0, 0, 1, 1])],
)
def test_the_reference_begins_at_the_first_audit_that_finds_half_of_the_objects(counts, compared, tmp_path):
    fit(FindsMore(*counts), known_audit(occlusion=False), folder=tmp_path, max_steps=5)
    assert list(drift_curves(tmp_path)["drift_ref/n_objects"].values()) == compared


def test_until_then_it_is_the_audit_with_the_most():
    log = DriftLog(enabled=True, reseeded=False, reference=None)
    log.begin({"audit_set": "set"})

    def maps(count):
        return {(1, n): ObjectMaps(np.ones((5, 8, 8), np.float16), np.ones((5, 8, 8), bool)) for n in range(count)}

    sizes = []
    for found in (0, 2, 1, 4, 0, 5, 10):
        log.advance(maps(found), n_objects=10)
        restored = DriftLog(enabled=True, reseeded=False, reference=None)
        restored.load_state_dict(log.state_dict())
        log = restored
        sizes.append(len(log.state_dict()["reference"]["keys"]) if log.state_dict()["reference"] else 0)
    assert sizes == [0, 2, 2, 4, 4, 5, 5]


def test_a_run_resumed_from_an_empty_reference_begins_one(tmp_path):
    fit(FindsMore(0, 2, 2), known_audit(), max_steps=1).save_checkpoint(tmp_path / "last.ckpt")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=False)
    (state,) = checkpoint["callbacks"].values()
    state["drift"]["reference"] = state["drift"]["previous"]  # as it was kept before
    torch.save(checkpoint, tmp_path / "last.ckpt")
    trainer = fit(FindsMore(0, 2, 2), known_audit(), max_steps=3, checkpoint=tmp_path / "last.ckpt")
    assert trainer.callback_metrics["drift_ref/n_objects"] == 2


def test_object_missed_on_one_side_is_left_out_and_counted(tmp_path):
    class LosesOne(DriftingModule):
        def detect(self, images):
            self.known.base[1, 4] = 0.97 if self.number > 0.85 else 0.1
            return super().detect(images)

    trainer = fit(LosesOne(), known_audit(), max_steps=2)
    logged = trainer.callback_metrics
    assert (logged["drift/n_objects"], logged["drift_ref/n_objects"], logged["drift_noise/n_objects"]) == (1, 1, 1)
    assert logged["drift/ssim"] == pytest.approx(float(expected_drift(0.8, 0.9, objects=1)["ssim"]), abs=2e-3)


def test_the_first_images_with_a_detection_are_audited_again_under_another_seed():
    samples = [box_sample(TWO, [0, 1], image_id=number, first_annotation=10 * number) for number in (1, 2, 3)]
    samples[0] = replace(samples[0], labels=samples[0].labels + 5)  # nothing of the first image is detected
    counts = {}
    for images in (0, 1, 2, 5):
        module = DriftingModule()
        logged = fit(module, known_audit(audit_samples=samples, reseeded_images=images), max_steps=1).callback_metrics
        counts[images] = len(module.known.seen)
        assert ("drift_noise/pearson" in logged) == (images > 0)
    # The clean image and two noise samples, for each image; nothing is hidden once more.
    assert [counts[n] - counts[0] for n in (1, 2, 5)] == [3, 6, 6]


def test_another_seed_is_what_drift_noise_measures():
    class Curved(KnownModule):
        def detect(self, images):
            return super().detect(
                [128 + (image - 128) ** 2 / 100 for image in images]
            )  # the gradient follows the noise

    logged = fit(Curved(), known_audit(n_samples=3), max_steps=1).callback_metrics
    assert 0.001 < logged["drift_noise/score/pearson"] < 0.8


def test_drift_off_logs_and_keeps_nothing():
    audit = known_audit(drift=False)
    module = DriftingModule()
    trainer = fit(module, audit, max_steps=2)
    assert not [name for name in trainer.callback_metrics if name.startswith("drift")]
    assert len(module.known.seen) == 2 * (
        3 + 2 * HIDDEN
    )  # of each audit: the image, two noise samples, what has hidden pixels
    assert audit.state_dict()["drift"]["previous"] is None


def test_failed_audit_logs_nan_and_leaves_what_is_compared_with(tmp_path):
    class FailsOnce(DriftingModule):
        def detect(self, images):
            if 0.75 < self.number < 0.85:
                raise ArithmeticError("the detector broke")
            return super().detect(images)

    with pytest.warns(RuntimeWarning, match="the detector broke"):
        fit(FailsOnce(), known_audit(), folder=tmp_path)
    curves = drift_curves(tmp_path)
    assert curves["drift/n_objects"] == {0: 0, 1: None, 2: 2}
    assert all(curve[1] is None for curve in curves.values())
    for prefix in ("drift", "drift_ref"):
        assert curves[f"{prefix}/ssim"][2] == pytest.approx(float(expected_drift(0.7, 0.9)["ssim"]), abs=2e-3)


def test_a_resumed_run_logs_the_same_bits(tmp_path):
    fit(DriftingModule(), known_audit(), folder=tmp_path / "whole", max_steps=5)
    interrupted = known_audit()
    fit(DriftingModule(), interrupted, folder=tmp_path / "parts", max_steps=3).save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"][interrupted.state_key]
    assert state["drift"]["previous"]["maps"].dtype == torch.float16
    fit(DriftingModule(), known_audit(), folder=tmp_path / "parts", max_steps=5, checkpoint=tmp_path / "last.ckpt")
    whole, parts = drift_curves(tmp_path / "whole"), drift_curves(tmp_path / "parts")
    for name, curve in whole.items():  # the steps under which a resumed run logs are Lightning's
        assert len(curve) == 5
        assert list(curve.values()) == list(parts[name].values()), name
    assert whole["drift/ssim"][3] != whole["drift_ref/ssim"][3]


def test_checkpoint_from_before_drift_still_loads(tmp_path):
    fit(DriftingModule(), known_audit(), max_steps=1).save_checkpoint(tmp_path / "last.ckpt")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=False)
    (state,) = checkpoint["callbacks"].values()
    del state["drift"]
    torch.save(checkpoint, tmp_path / "last.ckpt")
    trainer = fit(DriftingModule(), known_audit(), max_steps=2, checkpoint=tmp_path / "last.ckpt")
    assert trainer.callback_metrics["drift/pearson"].isnan()


def test_maps_of_another_audit_set_are_forgotten(tmp_path):
    fit(DriftingModule(), known_audit(), max_steps=1).save_checkpoint(tmp_path / "last.ckpt")
    brighter = box_sample(TWO, [0, 1])
    other = known_audit(audit_samples=[replace(brighter, image=brighter.image + 1)])
    with pytest.warns(UserWarning, match="another than before: drift starts again"):
        trainer = fit(DriftingModule(), other, max_steps=2, checkpoint=tmp_path / "last.ckpt")
    assert trainer.callback_metrics["drift/pearson"].isnan()


def test_early_stopping_and_checkpoints_on_drift(tmp_path):
    keep = ModelCheckpoint(tmp_path, monitor="drift/pearson", mode="min", filename="best")
    stop = EarlyStopping("drift/ssim", mode="min", patience=5)
    with pytest.warns(UserWarning, match="for drift, there is no audit to compare with yet"):
        fit(DriftingModule(), known_audit(), stop, max_steps=1)
    stop = EarlyStopping("drift/ssim", mode="min", patience=5, check_finite=False)
    trainer = fit(DriftingModule(), known_audit(), keep, stop, enable_checkpointing=True)
    assert trainer.global_step == 3
    assert keep.best_model_score == trainer.callback_metrics["drift/pearson"]  # the number falls: patterns converge


class TestReference:
    """An audit record in place of the first audit."""

    @pytest.fixture
    def record(self, tmp_path):
        fit(DriftingModule(), known_audit(save_records=True), folder=tmp_path, max_steps=1)
        (path,) = tmp_path.rglob("step_*.json")
        return path

    def test_is_what_every_audit_is_compared_with(self, record, tmp_path):
        audit = known_audit(reference=record)
        fit(DriftingModule(), audit, folder=tmp_path / "run")
        curves = drift_curves(tmp_path / "run")
        assert curves["drift_ref/ssim"][0] == 0  # the same weights as in the record
        assert curves["drift_ref/ssim"][2] == pytest.approx(float(expected_drift(0.7, 0.9)["ssim"]), abs=2e-3)
        assert curves["drift/ssim"][0] is None
        assert audit.state_dict()["drift"]["reference"] is None  # it stays in its file

    def test_survives_a_resume(self, record, tmp_path):
        fit(DriftingModule(), known_audit(reference=record), max_steps=2).save_checkpoint(tmp_path / "last.ckpt")
        audit = known_audit(reference=record)
        trainer = fit(DriftingModule(), audit, max_steps=3, checkpoint=tmp_path / "last.ckpt")
        value = float(expected_drift(0.7, 0.9)["ssim"])
        assert trainer.callback_metrics["drift_ref/ssim"] == pytest.approx(value, abs=2e-3)

    def test_in_validate(self, record):
        trainer = trainer_with([known_audit(reference=record)])
        (logged,) = trainer.validate(DriftingModule(), verbose=False)
        assert logged["drift_ref/pearson"] > 0
        assert math.isnan(logged["drift/pearson"])

    def test_of_other_settings_is_refused_by_name(self, record):
        with pytest.raises(MisconfigurationException, match="but its seed is 0, not 1"):
            fit(DriftingModule(), known_audit(reference=record, seed=1))
        with pytest.raises(MisconfigurationException, match="but its audit_set is '"):
            fit(DriftingModule(), known_audit(reference=record, audit_samples=[box_sample(TWO, [1, 0])]))

    def test_of_settings_that_change_no_map_is_taken(self, record):
        """A record of the last version says nothing of hidden pixels."""
        content = read_record(record)
        names = ("near_threshold", "near_margin", "occlusion", "sufficiency_margin", "necessity_margin")
        older = {name: value for name, value in content.fingerprint.items() if name not in names}
        rows = tuple(replace(row, occlusion={}, detected_again={}) for row in content.objects)
        write_record(replace(content, fingerprint=older, objects=rows), record)
        logged = fit(DriftingModule(), known_audit(reference=record, near_margin=0.1), max_steps=1).callback_metrics
        assert logged["drift_ref/ssim"] == 0

    def test_without_its_maps_is_refused(self, record):
        write_record(replace(read_record(record), maps=None), record)
        with pytest.raises(MisconfigurationException, match="to have its maps beside it"):
            fit(DriftingModule(), known_audit(reference=record))

    def test_that_is_no_record_is_refused(self, tmp_path):
        (tmp_path / "broken.json").write_text("{")
        with pytest.raises(BrokenInputError, match="Is it truncated"):
            fit(DriftingModule(), known_audit(reference=tmp_path / "broken.json"))
