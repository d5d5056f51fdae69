"""What loggers show of an audit besides scalars: pictures; and TensorBoard charts, histograms and a table, too."""

from collections.abc import Mapping, Sequence

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from odsg_lightning.audit.maps_file import Key
from odsg_lightning.audit.record import ObjectRow
from odsg_lightning.names import BOX_PARAMETERS, PARAMETERS, REGIONS
from odsg_lightning.training.image_log import log_image, logged_step
from odsg_lightning.training.shared_audit import AuditResult

_WORST = 5
_LISTED = 20


class Dashboard:
    """Writes to the loggers, from the first process: pictures to all that take any, the rest to TensorBoard."""

    def __init__(self) -> None:
        """Remember where the layout stands already."""
        self._laid_out: set[str] = set()

    def log(self, trainer: Trainer, result: AuditResult, scalars: Mapping[str, float], lost: Sequence[Key]) -> None:
        """Log an audit under the step of its scalars.

        Args:
            trainer: whose loggers.
            result: what the audit found.
            scalars: its values by their logged names.
            lost: objects that the audit before detected and this one did not.
        """
        step, rows = logged_step(trainer), result.rows
        for tag, picture in result.pictures.items():
            log_image(trainer, tag, picture)
        for logger in trainer.loggers:
            if not (isinstance(logger, TensorBoardLogger) and trainer.is_global_zero):
                continue
            writer = logger.experiment
            if logger.log_dir not in self._laid_out:
                writer.add_custom_scalars(custom_scalars(drift="drift/pearson" in scalars))
                self._laid_out.add(logger.log_dir)
            for tag, values in iof_values(rows).items():
                writer.add_histogram(tag, values, step)
            writer.add_text("audit/summary", summary(rows, scalars, lost), step)


def custom_scalars(*, drift: bool) -> dict[str, dict[str, list[object]]]:
    """Return the charts of the page *Custom scalars*: title, and the curves in it."""
    charts = {"mean of the box": ["iof/edge", "iof/middle"]}
    charts |= {parameter: [f"iof/{parameter}/edge", f"iof/{parameter}/middle"] for parameter in BOX_PARAMETERS}
    layout = {"edge against middle": charts}
    if drift:
        kinds = ("drift", "drift_ref", "drift_floor")
        layout["drift"] = {m: [f"{kind}/{m}" for kind in kinds] for m in ("pearson", "ssim", "mask_iou")}
    layout["coverage"] = {"coverage": ["audit/coverage", "audit/match_rate"]}
    # TensorBoard takes each for a regular expression that a name begins with.
    return {
        category: {title: ["Multiline", [f"^{tag}$" for tag in tags]] for title, tags in charts.items()}
        for category, charts in layout.items()
    }


def iof_values(rows: Sequence[ObjectRow]) -> dict[str, np.ndarray]:
    """Return the objects' shares on the object by tag, of the mean over the box maps and of each parameter.

    A tag without a defined value is left out: there is no histogram of nothing.
    """
    found = {"iof_objects/object": [row.object_iof for row in rows]}
    for parameter in PARAMETERS:
        found[f"iof_objects/{parameter}"] = [row.iof[f"{parameter}/object"] for row in rows if row.iof is not None]
    defined = {tag: [value for value in values if value is not None] for tag, values in found.items()}
    return {tag: np.array(values) for tag, values in defined.items() if values}


def summary(rows: Sequence[ObjectRow], scalars: Mapping[str, float], lost: Sequence[Key]) -> str:
    """Return an audit as Markdown: the means, and which objects to look at. See :meth:`Dashboard.log`."""
    names = {row.key: _name(row) for row in rows}
    detected = [row for row in rows if not row.missed]
    worst = sorted((row for row in detected if row.object_iof is not None), key=lambda row: row.object_iof or 0.0)
    undefined = [f"{names[row.key]} ({', '.join(row.undefined)})" for row in detected if row.undefined]
    ranked = [[names[row.key], _number(row.object_iof), _number(row.score), _number(row.iou)] for row in worst[:_WORST]]
    parts = [
        f"**{len(detected)} of {len(rows)} objects detected**, match rate {_number(scalars['audit/match_rate'])}",
        _table(["IOF", *REGIONS, "object"], [_means(scalars, parameter) for parameter in (*PARAMETERS, "")]),
        "**Least on the object**",
        _table(["object", "IOF", "score", "IoU"], ranked) if ranked else "none",
        f"**Missed since the audit before**: {_listed([names[key] for key in lost if key in names])}",
        f"**Missed**: {_listed([names[row.key] for row in rows if row.missed])}",
        f"**Undefined maps**: {_listed(undefined)}",
    ]
    return "\n\n".join(parts)


def _means(scalars: Mapping[str, float], parameter: str) -> list[str]:
    prefix = f"iof/{parameter}/" if parameter else "iof/"
    return [parameter or "mean of the box", *(_number(scalars.get(prefix + r)) for r in (*REGIONS, "object"))]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _number(value: float | None) -> str:
    return "" if value is None or np.isnan(value) else f"{value:.2f}"


def _name(row: ObjectRow) -> str:
    # As numbers, so that no name of a category is taken for HTML or Markdown, or breaks out of its cell.
    category = "".join(c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in row.category)
    return f"{category}, image {row.image_id}, annotation {row.annotation_id}"


def _listed(names: Sequence[str]) -> str:
    more = f"; and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ("; ".join(names[:_LISTED]) or "none") + more
