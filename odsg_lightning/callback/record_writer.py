"""Writes the record of an audit in training: the same file that ``odsg audit`` writes of a checkpoint."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from odsg_lightning.callback.dashboard import logged_step
from odsg_lightning.callback.distributed import AuditResult
from odsg_lightning.callback.failure import run_on_all_ranks
from odsg_lightning.errors import UserInputError
from odsg_lightning.files import make_folder
from odsg_lightning.names import FAMILIES
from odsg_lightning.records.provenance import provenance
from odsg_lightning.records.record import AuditRecord, write_record_with_maps

_BESIDE = ("val/", "test/", "train/loss", *FAMILIES)
_DIGITS = 6


class RecordWriter:
    """Writes ``audits/step_<step>.json``, or ``validate.json`` and ``test.json``, each with its maps beside it.

    The folder is that of the Trainer's first logger (``trainer.log_dir``), or its ``default_root_dir`` without one. A
    run that logs into the folder of another one overwrites what has the same name.

    Args:
        enabled: if not, nothing is kept and nothing is written.
    """

    def __init__(self, *, enabled: bool) -> None:
        """See the class for the arguments."""
        self.enabled = enabled
        self._fingerprint: Mapping[str, Any] = {}
        self._provenance: dict[str, Any] = {}
        self._result: AuditResult | None = None
        self._weights = ""
        self.of_detector: Mapping[str, Any] = {}
        """What the fingerprint says of the detector, which is not known before its first audit."""

    def begin(self, fingerprint: Mapping[str, Any]) -> None:
        """Take the settings of the audits to come, and find out where the code comes from before it changes on disk."""
        self._fingerprint = fingerprint
        self._provenance = provenance() if self.enabled else {}

    def keep(self, result: AuditResult | None, weights: str = "as trained") -> None:
        """Keep an audit until its evaluation has ended; None if it failed.

        Args:
            result: the audit.
            weights: which of the training's weights were audited.
        """
        self._result, self._weights = result if self.enabled else None, weights

    def write(self, trainer: Trainer) -> None:
        """Write the audit, if one is kept, whole or not at all. Every process must call this; all return or all raise.

        Args:
            trainer: after its evaluation, with everything logged.

        Raises:
            UserInputError: the folder is none of this machine, or cannot be written to.
            DiskError: the disk is full, or fails.
            FailedElsewhereError: in any process but the first.
        """
        result, self._result = self._result, None
        if result is None:
            return
        step, root = logged_step(trainer), str(trainer.log_dir or trainer.default_root_dir)
        if "://" in root:
            raise UserInputError(
                f"Expected save_records=True to come with a local folder for the logs, but got {root}."
            )
        folder = Path(root) / "audits"
        origin = self._provenance | {"step": step, "weights": self._weights}
        record = AuditRecord({**self._fingerprint, **self.of_detector}, origin, result.rows, metrics_beside(trainer))
        entry = trainer.state.fn
        name = f"step_{step:06d}" if entry is None or entry == TrainerFn.FITTING else entry.value

        def first_process() -> list[None]:
            if trainer.is_global_zero:
                make_folder(folder)
                write_record_with_maps(record, folder / f"{name}.json", sorted(result.maps.items()))
            return []

        run_on_all_ranks(trainer.strategy, first_process)


def metrics_beside(trainer: Trainer) -> dict[str, float | None]:
    """Return what was logged beside the audit, None for NaN: average precision, training loss, IOF, occlusion, drift.

    Without ``audit/seconds``, so that the same audit gives the same file.
    """
    known = {**trainer.logged_metrics, **trainer.callback_metrics}
    numbers = {name: torch.as_tensor(value) for name, value in sorted(known.items()) if name.startswith(_BESIDE)}
    values = {name: float(value) for name, value in numbers.items() if value.numel() == 1 and name != "audit/seconds"}
    return {n: None if math.isnan(v) else round(v, _DIGITS) for n, v in values.items() if not math.isinf(v)}
