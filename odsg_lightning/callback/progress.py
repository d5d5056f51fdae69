"""Shows an audit on whatever progress bar the Trainer uses."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from odsg_lightning.callback.packages import lightning_classes

DESCRIPTION = "ODSmoothGrad audit"


@contextmanager
def audit_progress(trainer: Trainer, total: int) -> Iterator[Callable[[], None]]:
    """Show a bar while an audit runs, and yield the function that moves it one step.

    Args:
        trainer: its progress bar callback decides how the bar looks, and whether there is one.
        total: number of steps.
    """
    bar: Any = trainer.progress_bar_callback
    if isinstance(bar, lightning_classes("callbacks.RichProgressBar")) and bar.is_enabled and bar.progress is not None:
        progress = bar.progress
        # Lightning finds its tasks by position, so none may be removed: the audit's own is hidden and used again.
        known = [task.id for task in progress.tasks if task.description == DESCRIPTION]
        task = known[0] if known else progress.add_task(DESCRIPTION, total=total)
        progress.reset(task, total=total, visible=True)

        def advance() -> None:
            progress.advance(task)
            bar.refresh()

        try:
            yield advance
        finally:
            progress.update(task, visible=False)
            bar.refresh()
    elif isinstance(bar, lightning_classes("callbacks.TQDMProgressBar")) and bar.is_enabled:
        below_others = 2 * bar.process_position + 2
        with Tqdm(total=total, desc=DESCRIPTION, position=below_others, leave=False, dynamic_ncols=True) as tqdm:
            yield lambda: tqdm.update() and None
    else:
        yield lambda: None
