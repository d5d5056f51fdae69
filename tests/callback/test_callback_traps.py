"""What a long training run with unusual settings could stumble over; each test stands for one such trap."""

import gc
import weakref
from contextlib import contextmanager
from unittest.mock import Mock

import pytest
import torch
from helpers.known_detectors import LinearDetector, box_sample
from helpers.runs import trainer_with
from lightning.pytorch import Callback, LightningModule, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader

from odsg_lightning import ODSmoothGradCallback
from odsg_lightning.callback.monitors import AuditCheckpoint
from odsg_lightning.types import Detections

BOX = [2, 2, 12, 12]


class SmallModule(LightningModule):
    """Its weights are trained on noise, and its one detection depends on them, too."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Conv2d(2, 5, 3))
        self.known = LinearDetector(torch.tensor([[*BOX, 0.95]]), torch.zeros(1, 5, 3, 24, 24), torch.tensor([0]))

    def detect(self, images):
        detections = []
        for image, found in zip(images, self.known.detect(images), strict=True):
            moved = found.parameters + 1e-6 * self.net(image[None].to(self.dtype)).mean((2, 3))
            detections.append(Detections(moved[:, :4], moved[:, 4], found.labels))
        return detections

    def training_step(self, batch, _):
        return self.net(batch.to(self.dtype)).square().mean()

    def validation_step(self, batch, _, dataloader_idx=0):
        self.log("val/own", 1.0)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 0.01)

    def train_dataloader(self):
        return DataLoader(torch.rand(16, 3, 24, 24, generator=torch.Generator().manual_seed(0)), batch_size=2)

    def val_dataloader(self):
        return DataLoader(torch.rand(2, 1))


def small_audit(**settings):
    return ODSmoothGradCallback(
        **({"audit_samples": [box_sample([BOX], [0])], "n_samples": 2, "blur_sigma": 0} | settings)
    )


def fit(*callbacks, module=None, folder=None, checkpoint=None, **settings):
    trainer = trainer_with([*callbacks], folder, **settings)
    trainer.fit(module or SmallModule(), ckpt_path=checkpoint)
    return trainer


class Gradients(Callback):
    """Keeps the gradients that are there when a validation begins, and when the training goes on after it."""

    def __init__(self):
        self.before, self.after = [], []

    def on_validation_start(self, trainer, module):
        self.before.append([p.grad.clone() for p in module.parameters() if p.grad is not None])

    def on_validation_end(self, trainer, module):
        self.after.append([p.grad.clone() for p in module.parameters() if p.grad is not None])


def test_validation_in_the_middle_of_gradient_accumulation():
    def train(*callbacks):
        seed_everything(1, verbose=False)
        gradients = Gradients()
        module = SmallModule()
        trainer = fit(
            gradients,
            *callbacks,
            module=module,
            accumulate_grad_batches=4,
            val_check_interval=2,
            num_sanity_val_steps=0,
        )
        states = trainer.optimizers[0].state_dict()["state"]
        moments = [value for state in states.values() for value in state.values()]
        return gradients, [*module.state_dict().values(), *moments, torch.get_rng_state()]

    _, without = train()
    audit = small_audit()
    gradients, audited = train(audit)
    assert audit.n_validations == 8  # 16 batches in 4 optimizer steps
    assert audit.n_failed == 0
    assert [len(found) for found in gradients.before] == [6, 0] * 4  # between two steps there are gradients
    for before, after in zip(gradients.before, gradients.after, strict=True):
        assert all(map(torch.equal, before, after))
    assert all(map(torch.equal, without, audited))


class TestMonitorAlwaysFindsItsKey:
    """A checkpoint callback ends the run at a validation after which its monitor was never logged."""

    def fit(self, audit, folder, **settings):
        keep = AuditCheckpoint(folder / "best", monitor="iof/object", mode="max")
        return fit(audit, keep, val_check_interval=1, enable_checkpointing=True, **settings)

    def test_after_a_resume_between_two_audits(self, tmp_path):
        self.fit(small_audit(every_n_validations=3), tmp_path, max_steps=2).save_checkpoint(tmp_path / "last.ckpt")
        resumed = self.fit(small_audit(every_n_validations=3), tmp_path, max_steps=5, checkpoint=tmp_path / "last.ckpt")
        assert resumed.global_step == 5

    def test_in_a_second_fit_with_the_same_callback(self, tmp_path):
        audit = small_audit(every_n_validations=2)
        for _ in range(2):
            assert self.fit(audit, tmp_path, max_steps=3).global_step == 3


def test_failed_audit_keeps_nothing_in_memory():
    kept = []

    class OutOfMemory(SmallModule):
        def detect(self, images):
            graph = self.net(images[0][None])
            kept.append(weakref.ref(graph))
            raise MemoryError

    gc.collect()
    gc.disable()  # until the next collection, a cycle would keep what did not fit beside the training
    try:
        with pytest.warns(RuntimeWarning, match="MemoryError"):
            fit(small_audit(), module=OutOfMemory())
        assert len(kept) == 2
        assert all(reference() is None for reference in kept)
    finally:
        gc.enable()


def test_hooks_of_an_adapter_that_is_only_tried_are_removed():
    module = SmallModule()

    def adapter(found):
        found.net.register_forward_hook(lambda *_: None)
        torch.rand(1)
        return found

    small_audit(adapter=adapter).on_fit_start(Mock(), module)
    assert len(module.net._forward_hooks) == 0


class TestRefused:
    def test_two_audits_in_one_trainer(self):
        with pytest.raises(
            MisconfigurationException, match="Expected one ODSmoothGradCallback in a Trainer, but got 2"
        ):
            fit(small_audit(), small_audit(seed=1))

    def test_weights_averaged_before_the_audit(self):
        with pytest.raises(MisconfigurationException, match="to come before EMAWeightAveraging in the Trainer's callb"):
            fit(EMAWeightAveraging(), small_audit())

    def test_deepspeed(self):
        trainer = Mock(strategy=Mock(spec=DeepSpeedStrategy), callbacks=[])  # a real one needs GPUs
        with pytest.raises(MisconfigurationException, match="keeps the model whole on every device"):
            small_audit().setup(trainer, SmallModule(), "fit")


def test_averaged_weights_are_those_that_are_audited():
    class Remembers(SmallModule):
        def detect(self, images):
            self.audited = self.net[0].weight.detach().clone()
            return super().detect(images)

        def validation_step(self, *_):
            self.validated = self.net[0].weight.detach().clone()

        def on_validation_epoch_end(self):  # after the callbacks'
            self.trained = self.net[0].weight.detach().clone()

    module = Remembers()
    fit(small_audit(), EMAWeightAveraging(decay=0.5), module=module)
    assert torch.equal(module.audited, module.validated)
    assert not torch.equal(module.audited, module.trained)


def test_run_without_validations_is_warned_of():
    with pytest.warns(UserWarning, match="audits at validations, but this run has none"):
        fit(small_audit(), limit_val_batches=0)


def test_weights_that_became_nan():
    module = SmallModule()
    nn.init.constant_(module.net[0].weight, torch.nan)
    logged = fit(small_audit(), module=module).callback_metrics
    assert (logged["audit/recall"], logged["audit/n_failed"]) == (0, 0)
    assert logged["iof/object"].isnan()


class TwoLoaders(SmallModule):
    def val_dataloader(self):
        return [DataLoader(torch.rand(2, 1)), DataLoader(torch.rand(2, 1))]


@contextmanager
def gradients_off():
    torch.set_grad_enabled(False)
    try:
        yield
    finally:
        torch.set_grad_enabled(True)


class TestUnusualSettings:
    def check(self, trainer):
        assert 0 < trainer.callback_metrics["iof/object"] <= 1
        assert (trainer.callback_metrics["audit/recall"], trainer.callback_metrics["audit/n_failed"]) == (1, 0)

    @pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
    def test_precision(self, precision):
        self.check(fit(small_audit(), precision=precision))

    def test_two_validation_loaders_log_one_value(self):
        trainer = fit(small_audit(), module=TwoLoaders())
        self.check(trainer)
        assert "val/own/dataloader_idx_1" in trainer.callback_metrics

    def test_logger_without_pictures(self, tmp_path):
        self.check(fit(small_audit(), logger=CSVLogger(tmp_path)))

    def test_overfit_batches(self):
        self.check(fit(small_audit(), overfit_batches=2))

    @pytest.mark.parametrize("inference_mode", [True, False])
    def test_validate_with_gradients_off_everywhere(self, inference_mode):
        trainer = trainer_with([small_audit()], inference_mode=inference_mode)
        with gradients_off():
            trainer.validate(SmallModule(), verbose=False)
        self.check(trainer)

    def test_same_callback_in_every_entry_point(self):
        trainer, module = trainer_with([small_audit()]), SmallModule()
        trainer.validate(module, verbose=False)
        trainer.fit(module)
        trainer.validate(module, verbose=False)
        self.check(trainer)
