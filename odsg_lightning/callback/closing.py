"""How an audited training ends in the terminal: the last audit as tables, where the files lie, what to look at next."""

import shlex
import time
from collections.abc import Iterator
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from odsg_lightning.callback.callback import ODSmoothGradCallback
from odsg_lightning.callback.packages import lightning_classes
from odsg_lightning.records.tables import count_rows, iof_table
from odsg_lightning.text import number


class Closing(Callback):
    """Measures the whole of ``fit``, and prints its end when asked to.

    Args:
        title: of the table.
    """

    def __init__(self, title: str) -> None:
        """See the class for the arguments."""
        self.title = title
        self._began = self._seconds = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the watch."""
        self._began = time.perf_counter()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the watch."""
        self._seconds = time.perf_counter() - self._began

    def print(self, console: Console, trainer: Trainer) -> None:
        """Print it, after ``fit``; without tables if nothing was audited, nothing at all under ``fast_dev_run``.

        Args:
            console: where to.
            trainer: of the run; only its first process prints.
        """
        fast_dev_run: bool = trainer.fast_dev_run  # type: ignore[attr-defined] # set by another object
        if fast_dev_run or not trainer.is_global_zero:
            return
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # set by another object
        for audit in callbacks:
            if isinstance(audit, ODSmoothGradCallback) and audit.last:
                console.print(iof_table(audit.last, self.title))
                console.print(self._run_table(trainer, audit))
        for line in (*_paths(trainer, callbacks), *_next(trainer)):
            console.print(line, soft_wrap=True, markup=False, highlight=False)

    def _run_table(self, trainer: Trainer, audit: ODSmoothGradCallback) -> Table:
        """Return what to read beside the IOF, and where the time went."""
        table = Table(show_header=False)
        if "val/map_50" in trainer.callback_metrics:
            table.add_row("AP50", number(float(trainer.callback_metrics["val/map_50"]), 2))
        for cells in count_rows(audit.last):
            table.add_row(*cells)
        failed = f", {audit.n_failed} failed" if audit.n_failed else ""
        table.add_row("seconds training", f"{self._seconds - audit.seconds:.0f}")
        table.add_row("seconds auditing", f"{audit.seconds:.0f} in {audit.n_audits} audits{failed}")
        return table


def _paths(trainer: Trainer, callbacks: list[Callback]) -> Iterator[str]:
    for callback in callbacks:
        if isinstance(callback, lightning_classes("callbacks.ModelCheckpoint")) and callback.best_model_path:
            score = callback.best_model_score
            measured = "" if callback.monitor is None or score is None else f" ({callback.monitor} {float(score):.3f})"
            yield f"Checkpoint{measured}: {callback.best_model_path}"
    if trainer.log_dir is not None:
        yield f"Logs: {trainer.log_dir}"


def _next(trainer: Trainer) -> Iterator[str]:
    commands = [
        f"tensorboard --logdir {shlex.quote(logger.root_dir)} --samples_per_plugin images=200"
        for logger in trainer.loggers
        if isinstance(logger, lightning_classes("loggers.TensorBoardLogger"))
    ]
    records = Path(trainer.log_dir or trainer.default_root_dir) / "audits"
    if records.is_dir():
        page = shlex.quote(str(records.parent / "report.html"))
        commands.append(f"odsg report {shlex.quote(str(records))}/*.json -o {page}")
    if commands:
        yield "Look at the curves and the maps:"
        yield from (f"  {command}" for command in commands)
