"""What a Trainer must be for its audits to be right, checked before anything runs."""

from collections.abc import Sequence

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy
from lightning_utilities.core.rank_zero import rank_zero_warn

from odsg_lightning.types import AuditSample


def check_trainer(trainer: Trainer, audit: Callback, *, fitting: bool) -> None:
    """Refuse a Trainer in which the audit would measure or log something else than it says.

    Args:
        trainer: with its callbacks in their final order.
        audit: the callback that audits.
        fitting: whether the Trainer is about to train.

    Raises:
        MisconfigurationException: the model is sharded, there are two audits, or weights are averaged before the audit.
    """
    # DeepSpeed is a DDPStrategy by inheritance only: its stages shard the optimizer, the gradients or the model.
    whole = isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy)
    if not whole or isinstance(trainer.strategy, DeepSpeedStrategy):
        raise MisconfigurationException(
            "Expected a strategy that keeps the model whole on every device (a single device, or DDP), but got "
            f"{type(trainer.strategy).__name__}. Audit the checkpoint afterwards with trainer.validate() instead."
        )
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # set by another object
    same = sum(isinstance(callback, type(audit)) for callback in callbacks)
    if same > 1:
        raise MisconfigurationException(
            f"Expected one {type(audit).__name__} in a Trainer, but got {same}: they log under the same names, and "
            "Lightning would average their values."
        )
    if fitting:
        _check_weight_averaging(callbacks, audit)
    for callback in callbacks:
        if isinstance(callback, EarlyStopping) and _is_ours(callback.monitor) and callback.check_finite:
            rank_zero_warn(
                f"EarlyStopping(monitor={callback.monitor!r}) will end the run at the first validation at which "
                "the detector finds no object of the audit set: the value is NaN there. Pass check_finite=False."
            )


def _check_weight_averaging(callbacks: list[Callback], audit: Callback) -> None:
    """Refuse averaged weights that are taken back, at the end of the validation, before the audit sees them."""
    averaging = getattr(lightning_callbacks, "WeightAveraging", ())  # EMA too
    for callback in callbacks[: callbacks.index(audit)]:
        if isinstance(callback, averaging):
            raise MisconfigurationException(
                f"Expected {type(audit).__name__} to come before {type(callback).__name__} in the Trainer's callbacks, "
                "but it comes after: validation would measure the averaged weights, and the audit the others."
            )


def _is_ours(monitor: str | None) -> bool:
    return monitor is not None and monitor.startswith(("iof/", "audit/"))


def samples_of_datamodule(trainer: Trainer) -> Sequence[AuditSample]:
    """Return the audit set of the Trainer's data module.

    Raises:
        MisconfigurationException: it has none; the message says what to do.
    """
    audit_samples = getattr(getattr(trainer, "datamodule", None), "audit_samples", None)
    if not callable(audit_samples):
        raise MisconfigurationException(
            "Expected a data module with a method `audit_samples() -> list[odsg_lightning.types.AuditSample]`, but the "
            "Trainer has none. Use odsg_lightning.CocoDetectionDataModule, or pass "
            "ODSmoothGradCallback(samples=[...])."
        )
    samples: Sequence[AuditSample] = audit_samples()
    return samples
