"""What a Trainer must be for its audits to be right, checked before anything runs."""

from collections import Counter
from collections.abc import Sequence
from typing import get_args

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn

from odsg_lightning.callback.failure import OnError
from odsg_lightning.callback.packages import lightning_classes
from odsg_lightning.errors import UserInputError
from odsg_lightning.names import FAMILIES
from odsg_lightning.records.audit_set import samples_sha256
from odsg_lightning.types import AuditSample


def check_arguments(on_error: str, drift: bool, reference: object) -> None:
    """Refuse arguments of the callback, named and explained there, that are out of range or contradict one another.

    Raises:
        UserInputError: names the argument, its range and the value that came.
    """
    if on_error not in get_args(OnError):
        raise UserInputError(f"Expected argument `on_error` to be 'warn' or 'raise', but got {on_error!r}.")
    if reference is not None and not drift:
        raise UserInputError("Expected argument `reference` to come with drift=True, but got drift=False.")


def check_counts(**counts: int) -> None:
    """Refuse numbers below 0.

    Raises:
        UserInputError: names the argument and the value that came.
    """
    for name, count in counts.items():
        if count < 0:
            raise UserInputError(f"Expected argument `{name}` to be 0 or more, but got {count}.")


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
    whole = (*lightning_classes("strategies.SingleDeviceStrategy"), *lightning_classes("strategies.DDPStrategy"))
    sharding = lightning_classes("strategies.DeepSpeedStrategy")
    if not isinstance(trainer.strategy, whole) or isinstance(trainer.strategy, sharding):
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
        if not trainer.enable_validation:
            rank_zero_warn(
                f"{type(audit).__name__} audits at validations, but this run has none: it needs a validation_step, a "
                "validation loader and limit_val_batches above 0."
            )
    early_stopping = lightning_classes("callbacks.EarlyStopping")
    for callback in callbacks:
        if isinstance(callback, early_stopping) and _is_ours(callback.monitor) and callback.check_finite:
            rank_zero_warn(
                f"EarlyStopping(monitor={callback.monitor!r}) will end the run at the first validation at which the "
                "value is NaN: the audit fails, the detector finds no object of the audit set, or, for drift, there is "
                "no audit to compare with yet. Pass check_finite=False."
            )


def _check_weight_averaging(callbacks: list[Callback], audit: Callback) -> None:
    """Refuse averaged weights that are taken back, at the end of the validation, before the audit sees them."""
    averaging = lightning_classes("callbacks.WeightAveraging")  # EMA too
    for callback in callbacks[: callbacks.index(audit)]:
        if isinstance(callback, averaging):
            raise MisconfigurationException(
                f"Expected {type(audit).__name__} to come before {type(callback).__name__} in the Trainer's callbacks, "
                "but it comes after: validation would measure the averaged weights, and the audit the others."
            )


def _is_ours(monitor: str | None) -> bool:
    return monitor is not None and monitor.startswith(FAMILIES)


def audit_set_of(trainer: Trainer, samples: Sequence[AuditSample] | None) -> tuple[list[AuditSample], str, str | None]:
    """Return the audit set, its hash, and what its masks are where the data module says it.

    Args:
        trainer: whose data module has the audit set if none is given.
        samples: the audit set, or None.

    Raises:
        MisconfigurationException: there is none, it is empty, or an object comes twice; the message says what to do.
    """
    datamodule = getattr(trainer, "datamodule", None)
    audit_samples = getattr(datamodule, "audit_samples", None)
    if samples is None and not callable(audit_samples):
        raise MisconfigurationException(
            "Expected a data module with a method `audit_samples() -> list[odsg_lightning.types.AuditSample]`, but the "
            "Trainer has none. Use odsg_lightning.CocoDetectionDataModule, or pass "
            "ODSmoothGradCallback(audit_samples=[...])."
        )
    chosen = list(audit_samples() if samples is None else samples)  # type: ignore[misc] # callable: checked above
    counts = Counter((sample.image_id, annotation) for sample in chosen for annotation in sample.annotation_ids)
    if not counts:
        raise MisconfigurationException("Expected an audit set with at least one object, but got an empty one.")
    (image, annotation), count = counts.most_common(1)[0]
    if count > 1:
        raise MisconfigurationException(
            f"Expected an audit set in which image id and annotation id name one object, but annotation {annotation} "
            f"of image {image} comes {count} times."
        )
    own_hash, own_masks = (getattr(datamodule, f"audit_set_{name}", None) for name in ("sha256", "masks"))
    if samples is not None or not callable(own_hash):
        return chosen, samples_sha256(chosen), None
    return chosen, own_hash(), own_masks() if callable(own_masks) else None
