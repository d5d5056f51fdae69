"""Callbacks and schedulers that watch a value of the audit, at validations that are not audited."""

import re
from collections.abc import Collection, Iterable

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning_utilities.core.rank_zero import rank_zero_warn

from odsg_lightning.callback.packages import OfEveryPackage, lightning_classes


class AuditCheckpoint(ModelCheckpoint, OfEveryPackage, base="callbacks.Checkpoint"):
    """A ModelCheckpoint that waits for the next audit wherever its value was not measured.

    Lightning's own ends the run at a validation at which its monitor is missing, as the audit's values are between two
    audits (``ODSmoothGradCallback(every_n_validations=2)``). This one saves nothing there, no ``last.ckpt`` either. The
    arguments are those of :class:`lightning.pytorch.callbacks.ModelCheckpoint`.

    Example:
        >>> keep = AuditCheckpoint(monitor="occlusion/sufficiency", mode="max", auto_insert_metric_name=False)
    """

    _measured = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, if it is time to and there is a value."""
        if self._has_value(trainer):
            super().on_train_epoch_end(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, if there is a value."""
        if self._has_value(trainer):
            super().on_validation_end(trainer, pl_module)

    def _has_value(self, trainer: Trainer) -> bool:
        """Whether there is a value, or never was one: then Lightning says that the name is wrong."""
        has_value = self.monitor is None or self.monitor in trainer.callback_metrics
        self._measured |= has_value
        return has_value or not self._measured


def let_monitors_wait(trainer: Trainer, names: Collection[str], cadence: object) -> None:
    """Let what watches a value of the audit pass over the validations without one, or refuse it.

    ``strict`` of EarlyStopping and of a scheduler that watches a plateau is switched off: they skip a validation at
    which their value is missing, so that a patience counts audits.

    Args:
        trainer: about to train, with its callbacks and schedulers.
        names: under which the audit logs.
        cadence: in words, the arguments by which it does not at each validation.

    Raises:
        MisconfigurationException: a ModelCheckpoint watches a value of the audit, or names its files by one.
    """
    early_stopping = lightning_classes("callbacks.EarlyStopping")
    model_checkpoint = lightning_classes("callbacks.ModelCheckpoint")
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # set by another object
    for callback in callbacks:
        if isinstance(callback, model_checkpoint) and not (
            isinstance(callback, AuditCheckpoint) and callback.monitor in names
        ):
            _refuse_checkpoint(callback, names, cadence)
        if isinstance(callback, early_stopping) and callback.monitor in names and callback.strict:
            callback.strict = False
            rank_zero_warn(
                f"EarlyStopping(monitor={callback.monitor!r}) finds no value at the validations between two audits "
                f"({cadence}), and would end the run there: strict=False is set, so "
                f"that its patience of {callback.patience} counts audits."
            )
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and config.monitor in names and config.strict:
            config.strict = False
            rank_zero_warn(
                f"{type(config.scheduler).__name__} finds no value of {config.monitor} at the validations between two "
                f"audits ({cadence}), and would end the run there: strict=False is "
                "set, so that its patience counts audits."
            )


def _refuse_checkpoint(callback: ModelCheckpoint, names: Collection[str], cadence: object) -> None:
    in_file_name = re.findall(r"\{([^}:]+)", callback.filename or "")
    name = next((name for name in (callback.monitor, *in_file_name) if name in names), None)
    if name is not None:
        raise MisconfigurationException(
            f"Expected a ModelCheckpoint to read values of every validation, but this one reads {name!r}, which is "
            f"not there at each ({cadence}). Use "
            "odsg_lightning.callback.monitors.AuditCheckpoint instead, which takes the same arguments and waits for "
            "the next audit, or audit at every validation."
        )


def forget(trainer: Trainer, names: Iterable[str]) -> None:
    """Remove values that Lightning would keep until they are logged again, so that nothing takes them for new ones."""
    for metrics in (trainer.callback_metrics, trainer.logged_metrics):
        for name in names:
            metrics.pop(name, None)
