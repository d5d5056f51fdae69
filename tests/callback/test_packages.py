"""The callback under ``pytorch_lightning``: everything that it does under ``lightning.pytorch``."""

import ast
import os
import random
import signal
import sys
from importlib import import_module
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from helpers.both_packages import PACKAGES, small_module, trainer_of
from helpers.known_module import known_audit
from helpers.runs import EVERY_TAG, read_events
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from odsg_lightning import ODSmoothGradCallback
from odsg_lightning.callback import packages
from odsg_lightning.callback.monitors import AuditCheckpoint
from odsg_lightning.callback.packages import OfEveryPackage, class_for, lightning_classes

pl = pytest.importorskip("pytorch_lightning")
callbacks = import_module("pytorch_lightning.callbacks")

HERE, THERE = PACKAGES


def fit(audits=(), folder=None, **settings):
    trainer = trainer_of(THERE, [*audits], folder, **settings)
    trainer.fit(small_module(THERE))
    return trainer


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What the same run logs under either name."""
    logged = {}
    for package in PACKAGES:
        folder = tmp_path_factory.mktemp(package)
        audit = known_audit(on_error="raise", save_records=True)
        trainer = trainer_of(package, [audit], folder)
        trainer.fit(small_module(package))
        records = [path.read_bytes() for path in sorted(folder.rglob("step_*.json"))]
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name != "audit/seconds"}
        logged[package] = (metrics, read_events(folder), records)
    return logged


def test_the_same_numbers_under_both_names(both):
    here, there = (both[package][0] for package in PACKAGES)
    assert here.keys() >= EVERY_TAG - {"audit/seconds"}
    assert there == pytest.approx(here, nan_ok=True)
    assert (there["audit/recall"], there["audit/n_failed"], there["drift/n_objects"]) == (1, 0, 2)


def test_the_same_pictures_charts_and_records_under_both_names(both):
    (_, here, records_here), (_, there, records) = (both[package] for package in PACKAGES)
    tags = there.Tags()
    assert tags["images"] == here.Tags()["images"] == [f"saliency/image_1/annotation_{number}" for number in (1, 2)]
    for tag in tags["images"]:
        pictures = [[(event.step, event.encoded_image_string) for event in run.Images(tag)] for run in (here, there)]
        assert pictures[0] == pictures[1]
        assert len(pictures[1]) == 2
    assert tags["histograms"] == here.Tags()["histograms"] != []
    assert {"custom_scalars__config__", "audit/summary/text_summary"} <= set(tags["tensors"])
    assert records == records_here
    assert len(records) == 2


@pytest.mark.parametrize("bar", ["RichProgressBar", "TQDMProgressBar"])
def test_progress_bar_shows_the_audit(bar, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    terminal = {"console_kwargs": {"force_terminal": True}} if bar == "RichProgressBar" else {}
    shown = getattr(callbacks, bar)(refresh_rate=1, **terminal)
    fit([known_audit(), shown], enable_progress_bar=True)
    captured = capsys.readouterr()
    assert "ODSmoothGrad audit" in captured.out + captured.err


class Losses(Callback):
    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, module, outputs, *_):
        self.losses.append(outputs["loss"].item())


def everything_after(*audits):
    random.seed(3)
    np.random.seed(3)
    losses = Losses()
    trainer = trainer_of(THERE, [losses, *audits], max_steps=6)
    module = small_module(THERE)
    trainer.fit(module)
    weights = {name: value.tolist() for name, value in module.state_dict().items()}
    state = trainer.optimizers[0].state_dict()["state"]
    moments = [{name: value.tolist() for name, value in of_one.items()} for of_one in state.values()]
    streams = (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate())
    return losses.losses, weights, moments, streams


def test_training_is_bit_identical_with_and_without():
    class DrawsOneNumber(Callback):
        def on_validation_epoch_end(self, *_):
            torch.rand(1)

    audit = known_audit(on_error="raise")
    everything_after()  # the first fit of a process may differ in its last bits
    without = everything_after()
    assert everything_after(audit) == without
    assert (audit.n_audits, audit.last["audit/recall"]) == (3, 1)
    assert everything_after(DrawsOneNumber()) != without


def test_state_is_saved_and_resumed(tmp_path):
    first = known_audit(every_n_validations=2)
    fit([first, callbacks.ModelCheckpoint(tmp_path, save_last=True)], enable_checkpointing=True)
    resumed = known_audit(every_n_validations=2)
    trainer = trainer_of(THERE, [resumed], max_steps=6)
    trainer.fit(small_module(THERE), ckpt_path=tmp_path / "last.ckpt")
    assert (first.n_validations, resumed.n_validations) == (2, 3)
    assert resumed.last["drift/n_objects"] == 2  # compared with maps from the checkpoint


class TestWhatATrainerAsksOfItsOwnClasses:
    def test_an_audit_alone_is_taken(self):
        audit = known_audit()
        assert trainer_of(THERE, audit).callbacks[0] is audit

    def test_an_audit_checkpoint_is_the_checkpoint_callback(self, tmp_path):
        keep = AuditCheckpoint(tmp_path, monitor="iof/near", mode="max")
        trainer = fit([known_audit(every_n_validations=2), keep], max_steps=8, enable_checkpointing=True)
        assert trainer.checkpoint_callbacks == [keep]
        assert trainer.callbacks[-1] is keep
        assert keep.best_model_path

    def test_the_command_line_knows_the_audit(self):
        from pytorch_lightning.cli import LightningCLI

        arguments = ["--trainer.callbacks+=odsg_lightning.ODSmoothGradCallback", "--trainer.callbacks.n_samples=3"]
        trainer = ["--trainer.accelerator=cpu", "--trainer.logger=false"]
        cli = LightningCLI(type(small_module(THERE)), args=[*arguments, *trainer], run=False, save_config_callback=None)
        (audit,) = [callback for callback in cli.trainer.callbacks if isinstance(callback, ODSmoothGradCallback)]
        assert audit.config.n_samples == 3

    def test_a_package_that_is_loaded_after_a_class_was_made_is_joined_by_its_objects(self, monkeypatch):
        with monkeypatch.context() as without:
            without.delitem(sys.modules, THERE)

            class Mine(Callback, OfEveryPackage, base="callbacks.Callback"):
                def __init__(self, number):
                    self.number = number

            assert not issubclass(Mine, pl.Callback)
        mine = Mine(3)
        assert isinstance(mine, pl.Callback)
        assert isinstance(mine, Callback)
        assert mine.number == 3


class TestChecks:
    def test_early_stopping_waits_and_is_warned_of(self):
        stop = callbacks.EarlyStopping("iof/object", patience=9)
        with pytest.warns(UserWarning, match="will end the run at the first validation at which") as said:
            fit([known_audit(every_n_validations=2), stop])
        assert "strict=False is set" in " ".join(str(warning.message) for warning in said)
        assert not stop.strict

    def test_a_checkpoint_that_cannot_wait_is_refused(self):
        keep = callbacks.ModelCheckpoint(monitor="iof/object")
        with pytest.raises(MisconfigurationException, match=r"monitors\.AuditCheckpoint instead"):
            fit([known_audit(every_n_validations=2), keep], enable_checkpointing=True)

    def test_weights_averaged_before_the_audit_are_refused(self):
        with pytest.raises(MisconfigurationException, match="to come before EMAWeightAveraging"):
            fit([callbacks.EMAWeightAveraging(), known_audit()])

    def test_a_sharding_strategy_is_refused(self):
        trainer = Mock(strategy=Mock(spec=import_module("pytorch_lightning.strategies").FSDPStrategy), callbacks=[])
        with pytest.raises(MisconfigurationException, match="keeps the model whole on every device"):
            known_audit().setup(trainer, small_module(THERE), "fit")

    def test_sigterm_is_raised_as_its_own_package_does(self):
        module = small_module(THERE)
        module.detector.register_forward_hook(
            lambda layer, images, _: os.kill(os.getpid(), signal.SIGTERM) if images[0].shape[0] == 1 else None
        )
        trainer = trainer_of(THERE, [known_audit(n_samples=50)])
        with pytest.raises(class_for(trainer, "utilities.exceptions.SIGTERMException")) as raised:
            trainer.fit(module)
        assert type(raised.value).__module__.startswith(THERE)


def asked_of_one_package(source):
    """What an ``isinstance`` of some code asks for by a name that comes from Lightning."""
    tree = ast.parse(source)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    known = {a.name for node in imports for a in node.names if (node.module or "").startswith(("lightning.", THERE))}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance"]
    return {node.id for call in calls for node in ast.walk(call.args[1]) if isinstance(node, ast.Name)} & known


def test_nothing_is_asked_of_the_classes_of_one_package():
    folder = Path(packages.__file__).parent
    assert {p.name: asked for p in folder.glob("*.py") if (asked := asked_of_one_package(p.read_text("utf-8")))} == {}
    code = "from lightning.pytorch.loggers import CSVLogger\nisinstance(logger, str | CSVLogger)"
    assert asked_of_one_package(code) == {"CSVLogger"}


def test_a_trainer_of_neither_package_is_named():
    with pytest.raises(TypeError, match=r"of lightning.pytorch or pytorch_lightning, but got object"):
        class_for(object(), "Callback")


def test_nothing_is_loaded_for_a_trainer_of_the_other_package(monkeypatch, tmp_path):
    optional = (THERE, "wandb", "mlflow", "comet_ml", "neptune")
    for name in [name for name in sys.modules if name.partition(".")[0] in optional]:
        monkeypatch.delitem(sys.modules, name)
    trainer = trainer_of(HERE, [known_audit(on_error="raise")], tmp_path)
    trainer.fit(small_module(HERE))
    assert "iof/near" in trainer.callback_metrics
    assert lightning_classes("Callback") == (Callback,)
    assert not set(optional) & sys.modules.keys()
