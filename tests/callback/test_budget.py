"""A share of the run's time for audits: which validations it pays for, on a clock that the test turns."""

import logging
import time
import warnings
from types import SimpleNamespace

import pytest
import torch
from helpers.known_module import KnownModule, known_audit
from helpers.runs import trainer_with
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from odsg_lightning.callback.budget import Cadence
from odsg_lightning.callback.monitors import AuditCheckpoint
from odsg_lightning.errors import UserInputError

NAME = "iof/object"
STEP, LOOK = 10.0, 1.0  # seconds of a training step, and of a call of `detect`


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return clock


class Timed(KnownModule):
    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def training_step(self, batch, batch_idx):
        self.clock.now += STEP
        return super().training_step(batch, batch_idx)

    def detect(self, images):
        self.clock.now += LOOK * len(images)
        return super().detect(images)


class Watch(Callback):
    """Notes the validations with a value of the audit, and what was skipped by then."""

    def __init__(self):
        self.audited, self.skipped = [], []

    def on_validation_end(self, trainer, module):
        if not trainer.sanity_checking:
            self.audited.append(NAME in trainer.callback_metrics)
            self.skipped.append(int(trainer.callback_metrics.get("audit/skipped", -1)))


def quiet(**settings):
    return known_audit(**({"drift": False, "occlusion": False, "max_strips": 0, "n_samples": 1} | settings))


def fit(clock, *callbacks, checkpoint=None, **settings):
    settings = {"max_steps": 12, "val_check_interval": 1, "num_sanity_val_steps": 0} | settings
    trainer = trainer_with([*callbacks], **settings)
    trainer.fit(Timed(clock), ckpt_path=checkpoint)
    return trainer


def test_audits_stay_below_their_share_of_the_time(clock):
    audit, watch = quiet(max_share=0.1), Watch()
    fit(clock, audit, watch)
    cost = audit.seconds / audit.n_audits
    assert cost == 2 * LOOK  # the clean image and one noise sample
    # After k steps, before a next audit of 2 s, with n made: (n + 1) * 2 <= 0.1 * (10 k + n * 2 + 2).
    expected, n = [], 0
    for k in range(1, 13):
        audited = k in (1, 12) or (n + 1) * cost <= 0.1 * (STEP * k + n * cost + cost)
        expected.append(audited)
        n += audited
    assert watch.audited == expected
    assert 1 < sum(expected) < 12
    assert watch.skipped == [sum(not e for e in expected[: k + 1]) for k in range(12)]
    assert audit.seconds <= 0.1 * clock.now + cost  # but for the last


def test_without_a_share_nothing_is_skipped_or_said_of_it(clock):
    watch = Watch()
    fit(clock, quiet(), watch, max_steps=3)
    assert watch.audited == [True] * 3
    assert watch.skipped == [-1] * 3


@pytest.mark.parametrize(
    ("settings", "validations"),
    [
        ({"max_steps": 5, "val_check_interval": 2}, 2),
        ({"max_steps": -1, "max_epochs": 5, "val_check_interval": 1.0, "check_val_every_n_epoch": 2}, 2),
        ({"max_steps": -1, "max_epochs": 2, "val_check_interval": 3, "check_val_every_n_epoch": 1}, 4),
        ({"max_steps": 3, "val_check_interval": 2, "accumulate_grad_batches": 2}, 3),
    ],
)
def test_the_first_and_the_last_validation_are_always_audited(clock, settings, validations):
    watch = Watch()
    fit(clock, quiet(max_share=1e-6), watch, **settings)
    assert watch.audited == [True, *[False] * (validations - 2), True]


def test_the_last_is_audited_whatever_its_number(clock):
    watch = Watch()
    fit(clock, quiet(every_n_validations=3, max_share=0.9), watch, max_steps=6)
    assert watch.audited == [True, False, False, True, False, True]
    assert watch.skipped == [0] * 6  # those were not due


def test_one_line_says_what_is_skipped(clock, caplog):
    with caplog.at_level(logging.INFO):
        fit(clock, quiet(max_share=0.01), max_steps=3)
    (line,) = (record.getMessage() for record in caplog.records if "skipped" in record.getMessage())
    assert (
        line
        == "The ODSmoothGrad audit at step 2 is skipped, 1 so far: audits took 2 of 22 seconds, and max_share=0.01."
    )


def test_a_resumed_run_goes_on_with_its_account(clock, tmp_path):
    watch = Watch()
    fit(clock, quiet(max_share=0.1), watch, max_steps=5).save_checkpoint(tmp_path / "last.ckpt")
    clock.now = 1000.0  # another process, another clock
    audit = quiet(max_share=0.1)
    fit(clock, audit, watch, max_steps=12, checkpoint=tmp_path / "last.ckpt")
    # Before the audit at step 9: 4 made, 5 * 2 s <= 0.1 * (90 + 4 * 2 + 2) s. An empty account would pay for none.
    assert watch.audited == [True, False, False, True, True, True, False, False, True, False, True, True]
    state = audit.state_dict()["cadence"]
    assert state["spent"] == 7 * 2 * LOOK
    assert state["elapsed"] == 12 * STEP + 7 * 2 * LOOK
    assert state["skipped"] == watch.skipped[-1] == 5


def test_a_checkpoint_of_a_run_without_a_share_is_taken_up(clock, tmp_path):
    fit(clock, quiet(), max_steps=2).save_checkpoint(tmp_path / "last.ckpt")
    watch = Watch()
    fit(clock, quiet(max_share=1e-6), watch, max_steps=5, checkpoint=tmp_path / "last.ckpt")
    assert watch.audited == [True, False, True]


def test_the_first_process_decides_for_all(clock):
    asked = []

    class Strategy:
        def broadcast(self, value):
            asked.append(value)
            return True

    loop = SimpleNamespace(total_batch_idx=0)
    trainer = SimpleNamespace(
        strategy=Strategy(), global_step=1, fit_loop=loop, max_epochs=None, max_steps=-1, num_training_batches=8
    )
    cadence = Cadence(1, max_share=0.01)
    cadence.begin_fit()
    assert cadence.has_come(trainer, 0)
    cadence.pay(100.0)
    assert cadence.has_come(trainer, 1)  # this process would have skipped it
    assert asked == [True, False]
    assert cadence.n_skipped == 0


class TestWhatWatches:
    def test_early_stopping_waits(self, clock):
        stop = EarlyStopping(NAME, mode="max", patience=2, check_finite=False)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer = fit(clock, quiet(max_share=0.1), stop, max_steps=40)
        assert stop.wait_count == 2  # audits, of which the third is far behind the third validation
        assert 3 < trainer.global_step < 40
        (said,) = (str(w.message) for w in caught if "patience" in str(w.message))
        assert "(every_n_validations=1, max_share=0.1)" in said

    def test_a_checkpoint_that_cannot_wait_is_refused(self, clock, tmp_path):
        keep = ModelCheckpoint(tmp_path, monitor=NAME)
        with pytest.raises(
            MisconfigurationException, match=r"not there at each \(every_n_validations=1, max_share=0.1\)"
        ):
            fit(clock, quiet(max_share=0.1), keep, enable_checkpointing=True)

    def test_one_that_waits_keeps_audited_weights_only(self, clock, tmp_path):
        keep = AuditCheckpoint(
            tmp_path, "{step}", monitor=NAME, mode="max", save_top_k=-1, auto_insert_metric_name=False
        )
        watch = Watch()
        fit(clock, quiet(max_share=0.1), keep, watch, enable_checkpointing=True)
        assert {int(path.stem) for path in tmp_path.glob("*.ckpt")} == {
            step for step, audited in enumerate(watch.audited, 1) if audited
        }

    def test_what_is_skipped_can_be_watched_at_every_validation(self, clock, tmp_path):
        keep = ModelCheckpoint(tmp_path, monitor="audit/skipped", mode="max")
        fit(clock, quiet(max_share=0.1), keep, enable_checkpointing=True, max_steps=3)
        assert torch.is_tensor(keep.best_model_score)


@pytest.mark.parametrize("share", [0, 1, -0.1, 5])
def test_a_share_out_of_range(share):
    with pytest.raises(UserInputError, match=f"`max_share` to be above 0 and below 1, or None, but got {share}"):
        quiet(max_share=share)
