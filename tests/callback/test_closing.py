"""How a training ends in the terminal; and how it ends by SIGTERM."""

import os
import signal

import pytest
from helpers.known_module import KnownModule, known_audit
from helpers.runs import trainer_with
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

from odsg_lightning.callback.closing import Closing


def closing_of(capsys, *callbacks, folder=None, module=None, **settings):
    closing = Closing("the last audit")
    trainer = trainer_with([closing, *callbacks], folder, **settings)
    trainer.fit(module or KnownModule())
    capsys.readouterr()
    closing.print(Console(width=120), trainer)
    return capsys.readouterr().out


def test_tables_paths_and_what_to_look_at(tmp_path, capsys):
    keep = ModelCheckpoint(tmp_path / "kept", monitor="val/own", filename="best")
    audit = known_audit(save_records=True, every_n_validations=2)
    printed = closing_of(capsys, audit, keep, folder=tmp_path, enable_checkpointing=True)
    for words in ("the last audit", "x_min", "recall", "1.00 of 2 objects", "in 1 audits"):
        assert words in printed
    run = tmp_path / "logs" / "version_0"
    assert printed.splitlines()[-5:] == [
        f"Checkpoint (val/own 1.000): {tmp_path / 'kept' / 'best.ckpt'}",
        f"Logs: {run}",
        "Look at the curves and the maps:",
        f"  tensorboard --logdir {tmp_path / 'logs'} --samples_per_plugin images=200",
        f"  odsg report {run / 'audits'}/*.json -o {run / 'report.html'}",
    ]


def test_failed_audits_are_counted(capsys):
    class Fails(KnownModule):
        def detect(self, images):
            raise ArithmeticError

    with pytest.warns(RuntimeWarning, match="failed, and training goes on"):
        assert "in 2 audits, 2 failed" in closing_of(capsys, known_audit(), module=Fails())


def test_without_an_audit_there_are_no_tables(tmp_path, capsys):
    printed = closing_of(capsys, folder=tmp_path)
    assert "IOF" not in printed
    assert printed.startswith(f"Logs: {tmp_path}")


def test_nothing_is_said_of_a_fast_dev_run(capsys):
    assert closing_of(capsys, known_audit(), fast_dev_run=True) == ""


def test_sigterm_ends_a_run_in_the_middle_of_an_audit():
    """A grace period of 30 s is over before many audits are."""

    class Terminates(KnownModule):
        def detect(self, images):
            if not self.known.seen:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().detect(images)

    class Remembers(Callback):
        raised = None

        def on_exception(self, trainer, module, exception):
            self.raised = exception

    module, remembers = Terminates(), Remembers()
    with pytest.raises(SIGTERMException):
        trainer_with([known_audit(n_samples=50), remembers]).fit(module)
    assert isinstance(remembers.raised, SIGTERMException)
    assert len(module.known.seen) < 10
    assert all(parameter.requires_grad for parameter in module.parameters())
