"""What loggers show of an audit besides scalars: pictures and a table; and TensorBoard charts, histograms and text."""

from collections.abc import Mapping, Sequence

from lightning.pytorch import Trainer

from odsg_lightning.callback.charts import custom_scalars, histograms, recall_by_category, recall_tag
from odsg_lightning.callback.distributed import AuditResult
from odsg_lightning.callback.loggers import log_pictures, log_table
from odsg_lightning.callback.packages import lightning_classes
from odsg_lightning.callback.summary import WORST_COLUMNS, summary, worst_objects
from odsg_lightning.records.maps_file import Key


class Dashboard:
    """Writes to the loggers, from the first process."""

    def __init__(self) -> None:
        """Remember where the layout stands already."""
        self._laid_out: set[str] = set()

    def log(self, trainer: Trainer, result: AuditResult, scalars: Mapping[str, float], lost: Sequence[Key]) -> None:
        """Log an audit under the step of its scalars.

        Args:
            trainer: whose loggers.
            result: of the audit.
            scalars: its values by their logged names.
            lost: objects that the audit before detected and this one did not.
        """
        if not trainer.is_global_zero:
            return
        step, rows = logged_step(trainer), result.rows
        recalls = recall_by_category(rows)
        log_pictures(trainer, result.pictures, step)
        log_table(trainer, WORST_COLUMNS, worst_objects(rows), step)
        for logger in trainer.loggers:
            if not isinstance(logger, lightning_classes("loggers.TensorBoardLogger")):
                continue
            writer = logger.experiment
            if logger.log_dir not in self._laid_out:
                parts = {"occlusion": "occlusion/sufficiency" in scalars, "drift": "drift/pearson" in scalars}
                writer.add_custom_scalars(custom_scalars(**parts, categories=list(recalls)))
                self._laid_out.add(logger.log_dir)
            for category, recall in recalls.items():
                writer.add_scalar(recall_tag(category), recall, step)
            for tag, values in histograms(rows).items():
                writer.add_histogram(tag, values, step)
            writer.add_text("audit/summary", summary(rows, scalars, lost), step)


def logged_step(trainer: Trainer) -> int:
    """Return the step under which Lightning logs the scalars of an evaluation.

    It is not ``trainer.global_step``, which counts every optimizer apart; pictures logged there would stand beside the
    wrong point of the curves.
    """
    return trainer.fit_loop.epoch_loop._batches_that_stepped
