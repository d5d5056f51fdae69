"""Values of the audit are there at audited validations only, and what watches them waits; few pairs are explained."""

import warnings
from dataclasses import replace

import pytest
import torch
from helpers.known_module import KnownModule, known_audit
from helpers.runs import trainer_with
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from odsg_lightning.callback.monitors import AuditCheckpoint

NAME = "iof/object"


class Sees(Callback):
    """Remembers, of each validation, whether a value is there for callbacks and in the log."""

    def __init__(self, hook="on_validation_end"):
        self.seen = []
        setattr(self, hook, self.look)

    def look(self, trainer, module):
        if not trainer.sanity_checking:
            values = (trainer.callback_metrics, trainer.logged_metrics)
            self.seen.append({name: tuple(name in known for known in values) for name in (NAME, "val/own")})


def fit(*callbacks, module=None, checkpoint=None, **settings):
    settings = {"max_steps": 8, "val_check_interval": 1, "num_sanity_val_steps": 0} | settings
    trainer = trainer_with([*callbacks], **settings)
    trainer.fit(module or KnownModule(), ckpt_path=checkpoint)
    return trainer


def quiet(**settings):
    return known_audit(**({"drift": False, "occlusion": False, "max_strips": 0, "n_samples": 1} | settings))


@pytest.fixture
def said():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield lambda word: [str(warning.message) for warning in caught if word in str(warning.message)]


@pytest.mark.parametrize("first", [True, False])
def test_between_audits_there_is_no_value(first):
    audit, sees = quiet(every_n_validations=3), Sees()
    trainer = fit(*((audit, sees) if first else (sees, audit)), max_steps=5)
    assert [seen[NAME] for seen in sees.seen] == [
        (True, True),
        (False, False),
        (False, False),
        (True, True),
        (False, False),
    ]
    assert all(seen["val/own"][0] for seen in sees.seen)
    assert not {name for name in trainer.callback_metrics if name in audit.last}
    assert audit.last[NAME] == 1  # kept for whoever asks


def test_between_audits_there_is_none_at_the_end_of_an_epoch_either():
    sees = Sees("on_train_epoch_end")
    fit(quiet(every_n_validations=2), sees, max_steps=-1, max_epochs=4, limit_train_batches=1, val_check_interval=1.0,
        check_val_every_n_epoch=1)  # fmt: skip
    assert [seen[NAME][0] for seen in sees.seen] == [True, False, True, False]


def test_sanity_check_and_a_failed_audit():
    class FailsOnce(KnownModule):
        def detect(self, images):
            if 0.65 < self.number < 0.75:  # at the second audit
                raise ArithmeticError
            return super().detect(images)

        def training_step(self, batch, _):
            return self.number * 1.0  # 0.1 less each step

    values = []

    class Reads(Callback):
        def on_validation_end(self, trainer, module):
            if not trainer.sanity_checking:
                values.append(trainer.callback_metrics.get(NAME, "absent"))

    audit = quiet(every_n_validations=2)
    with pytest.warns(RuntimeWarning, match="failed, and training goes on"):
        fit(audit, Reads(), module=FailsOnce(), val_check_interval=1, max_steps=5, num_sanity_val_steps=1)
    shown = ["nan" if torch.is_tensor(value) and value.isnan() else value for value in values]
    assert audit.n_failed == 1
    assert shown.count("nan") == 1
    assert shown[1::2] == ["absent", "absent"]


class TestEarlyStopping:
    def test_patience_counts_audits(self, said):
        audit, stop = quiet(every_n_validations=4), EarlyStopping(NAME, mode="max", patience=2, check_finite=False)
        trainer = fit(audit, stop, max_steps=20)
        assert trainer.global_step == 9  # 1.0 at the validations 1, 5 and 9: no improvement twice
        (warning,) = said("patience")
        assert "strict=False is set, so that its patience of 2 counts audits" in warning

    def test_on_train_epoch_end(self, said):
        audit, stop = quiet(every_n_validations=2), EarlyStopping(NAME, mode="max", patience=1, check_finite=False)
        trainer = fit(audit, stop, max_steps=-1, max_epochs=9, limit_train_batches=1, val_check_interval=1.0,
                      check_val_every_n_epoch=1)  # fmt: skip
        assert trainer.current_epoch == 3
        assert len(said("patience")) == 1

    @pytest.mark.parametrize(
        ("every", "settings"),
        [(4, {"monitor": NAME, "strict": False}), (4, {"monitor": "val/own"}), (1, {"monitor": NAME})],
    )
    def test_is_left_alone_where_nothing_is_amiss(self, every, settings, said):
        stop = EarlyStopping(mode="max", patience=9, check_finite=False, **settings)
        fit(quiet(every_n_validations=every), stop, max_steps=2)
        assert stop.strict == settings.get("strict", True)
        assert said("patience") == []

    def test_a_name_that_is_never_logged_is_still_an_error(self):
        stop = EarlyStopping("iof/objekt", mode="max", check_finite=False)
        with pytest.raises(RuntimeError, match="`iof/objekt` which is not available"):
            fit(quiet(every_n_validations=2), stop)

    def test_survives_a_resume(self, tmp_path):
        def stop():
            return EarlyStopping(NAME, mode="max", patience=2, check_finite=False)

        fit(quiet(every_n_validations=3), stop(), max_steps=2).save_checkpoint(tmp_path / "last.ckpt")
        trainer = fit(quiet(every_n_validations=3), stop(), max_steps=20, checkpoint=tmp_path / "last.ckpt")
        assert trainer.global_step == 4  # audited were 1, 3 (the first after resuming) and 4


class TestCheckpoints:
    def test_that_cannot_wait_are_refused_before_training(self, tmp_path):
        audit = quiet(every_n_validations=2)
        for keep, name in (
            (ModelCheckpoint(tmp_path, monitor="audit/seconds"), "audit/seconds"),
            (ModelCheckpoint(tmp_path, "{step}-{iof/near:.2f}", monitor="val/own"), "iof/near"),
            (AuditCheckpoint(tmp_path, "{iof/near:.2f}", monitor="val/own"), "iof/near"),
        ):
            with pytest.raises(MisconfigurationException, match=rf"reads '{name}'.*AuditCheckpoint instead"):
                fit(audit, keep, enable_checkpointing=True)
        assert audit.n_validations == 0

    @pytest.mark.parametrize("settings", [{"monitor": "val/own"}, {"filename": "{step}"}])
    def test_that_read_nothing_of_the_audit_are_not(self, settings, tmp_path):
        trainer = fit(quiet(every_n_validations=2), ModelCheckpoint(tmp_path, **settings), enable_checkpointing=True)
        assert trainer.global_step == 8

    @pytest.mark.parametrize("more", [{}, {"every_n_train_steps": 1}, {"save_last": True}])
    def test_that_wait_keep_audited_weights_only(self, more, tmp_path):
        keep = AuditCheckpoint(
            tmp_path, "{step}", monitor=NAME, mode="max", save_top_k=-1, auto_insert_metric_name=False, **more
        )
        stop = EarlyStopping(NAME, mode="max", patience=2, check_finite=False)
        trainer = fit(quiet(every_n_validations=3), keep, stop, max_steps=20, enable_checkpointing=True)
        assert trainer.global_step == 7
        assert {path.stem for path in tmp_path.glob("*.ckpt")} - {"last"} == {"1", "4", "7"}
        assert {float(score) for score in keep.best_k_models.values()} == {1.0}

    def test_that_wait_say_that_a_name_is_wrong(self, tmp_path):
        keep = AuditCheckpoint(tmp_path, monitor="iof/objekt")
        with pytest.raises(MisconfigurationException, match="could not find the monitored key"):
            fit(quiet(every_n_validations=2), keep, enable_checkpointing=True)

    def test_that_wait_survive_a_resume_between_two_audits(self, tmp_path):
        def keep():
            return AuditCheckpoint(tmp_path / "best", monitor=NAME, mode="max")

        settings = {"enable_checkpointing": True}
        fit(quiet(every_n_validations=3), keep(), max_steps=2, **settings).save_checkpoint(tmp_path / "last.ckpt")
        resumed = fit(quiet(every_n_validations=3), keep(), max_steps=5, checkpoint=tmp_path / "last.ckpt", **settings)
        assert resumed.global_step == 5


def test_a_scheduler_that_watches_a_plateau_waits_too(said):
    class Plateau(KnownModule):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=0, factor=0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": NAME}}

    module = Plateau()
    trainer = fit(quiet(every_n_validations=2), module=module, max_steps=-1, max_epochs=5, limit_train_batches=1,
                  val_check_interval=1.0, check_val_every_n_epoch=1)  # fmt: skip
    assert len(said("ReduceLROnPlateau finds no value")) == 1
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / 4)  # at the audits 3 and 5, never between


def test_an_audit_that_pairs_nothing_says_why(said):
    class OffByOne(KnownModule):
        def detect(self, images):
            return [replace(found, labels=found.labels + 1) for found in super().detect(images)]

    fit(quiet(), module=OffByOne(), max_steps=1)
    (line,) = said("were paired")
    assert line.startswith("The ODSmoothGrad audit at step 1: 0 of 2 objects were paired with a detection.")
    assert "threshold of 0.5: 2, of which 2 overlap an object of another class (are the labels off by one?)" in line
