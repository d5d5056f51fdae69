"""What loggers show of an audit besides scalars: pictures; and TensorBoard charts, histograms and a table, too."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from lightning.pytorch import Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from odsg_lightning.callback.distributed import AuditResult
from odsg_lightning.callback.packages import lightning_classes
from odsg_lightning.files import make_folder
from odsg_lightning.metrics.drift import MEASURES
from odsg_lightning.names import BOX_PARAMETERS, OCCLUSION_NAMES, PARAMETERS, REGIONS
from odsg_lightning.records.maps_file import Key
from odsg_lightning.records.means import iof_values
from odsg_lightning.records.record import ObjectRow
from odsg_lightning.text import markdown, number

_WORST = 5
_LISTED = 20
_LOW = 0.5  # of sufficiency or necessity: the object is named
_COLUMNS = (*REGIONS, "object", "near")
_LEANING = ("enrichment", "position")  # of the edge third; of the mass
_HEADLINE = (*(f"occlusion/{name}" for name in OCCLUSION_NAMES), "audit/defined", "audit/match_rate")


class Dashboard:
    """Writes to the loggers, from the first process: pictures to all that take any, the rest to TensorBoard."""

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
        step, rows = logged_step(trainer), result.rows
        for tag, picture in result.pictures.items():
            log_image(trainer, tag, picture)
        for logger in trainer.loggers:
            if not (isinstance(logger, lightning_classes("loggers.TensorBoardLogger")) and trainer.is_global_zero):
                continue
            writer = logger.experiment
            if logger.log_dir not in self._laid_out:
                parts = {"occlusion": "occlusion/sufficiency" in scalars, "drift": "drift/pearson" in scalars}
                writer.add_custom_scalars(custom_scalars(**parts))
                self._laid_out.add(logger.log_dir)
            for tag, values in histograms(rows).items():
                writer.add_histogram(tag, values, step)
            writer.add_text("audit/summary", summary(rows, scalars, lost), step)


def custom_scalars(*, occlusion: bool, drift: bool) -> dict[str, dict[str, list[object]]]:
    """Return the charts of the page *Custom scalars*: title, and the curves in it."""
    layout: dict[str, dict[str, list[str]]] = {}
    if occlusion:
        layout["occlusion"] = {"sufficiency and necessity": [f"occlusion/{name}" for name in OCCLUSION_NAMES]}
    near = {"box mean": ["iof/near", "iof/object"]}
    layout["near and object"] = near | {p: [f"iof/{p}/near", f"iof/{p}/object"] for p in PARAMETERS}
    thirds = {"box mean": ["iof/edge", "iof/middle"]}
    layout["edge against middle"] = thirds | {p: [f"iof/{p}/edge", f"iof/{p}/middle"] for p in BOX_PARAMETERS}
    layout["leaning to the edge"] = {
        "enrichment": [f"enrichment/{region}" for region in REGIONS],
        "position": [f"position/{name}" for name in (*BOX_PARAMETERS, "mean")],
    }
    if drift:
        kinds = ("drift", "drift_ref", "drift_noise")
        layout["drift"] = {measure: [f"{kind}/{measure}" for kind in kinds] for measure in MEASURES}
    layout["recall"] = {"recall": ["audit/recall", "audit/match_rate", "audit/defined"]}
    # TensorBoard takes each for a regular expression that a name begins with.
    return {
        category: {title: ["Multiline", [f"^{tag}$" for tag in tags]] for title, tags in charts.items()}
        for category, charts in layout.items()
    }


def histograms(rows: Sequence[ObjectRow]) -> dict[str, np.ndarray]:
    """Return the objects' values by tag.

    ``iof_objects/...``: their shares on the object and near it, mean over the box maps, and on the object of each
    parameter; ``scores_hidden/...``: the score with which each is detected again, 0 where it is not, by what was hidden
    and what by.

    A tag without a defined value is left out: there is no histogram of nothing.
    """
    values = iof_values(rows)
    means = {"object": [row.box_mean("object") for row in rows], "near": [row.box_mean("near") for row in rows]}
    tagged = {f"iof_objects/{region}": np.array(of_objects, dtype=np.float64) for region, of_objects in means.items()}
    tagged |= {f"iof_objects/{parameter}": values[f"{parameter}/object"] for parameter in PARAMETERS}
    scores = [{name: again["score"] for name, again in row.detected_again.items() if again} for row in rows]
    for name in sorted({name for of_object in scores for name in of_object}):
        tagged[f"scores_hidden/{name}"] = np.array([of_object[name] for of_object in scores if name in of_object])
    defined = {tag: of_objects[~np.isnan(of_objects)] for tag, of_objects in tagged.items()}
    return {tag: of_objects for tag, of_objects in defined.items() if len(of_objects)}


def summary(rows: Sequence[ObjectRow], scalars: Mapping[str, float], lost: Sequence[Key]) -> str:
    """Return an audit as Markdown: the means, and which objects to look at. See :meth:`Dashboard.log`."""
    names = {row.key: _name(row) for row in rows}
    detected = sum(not row.missed for row in rows)
    worst = sorted((row for row in rows if row.object_iof is not None), key=lambda row: row.object_iof or 0.0)
    undefined = [f"{names[row.key]} ({', '.join(row.undefined)})" for row in rows if row.undefined]
    ranked = [
        [names[row.key], _two_digits(row.object_iof), _two_digits(row.score), _two_digits(row.iou)]
        for row in worst[:_WORST]
    ]
    means = {name.partition("/")[2].replace("_", " "): scalars.get(name) for name in _HEADLINE if name in scalars}
    shown = [f"{name} {_two_digits(value) or 'undefined'}" for name, value in means.items()]
    parts = [
        ", ".join([f"**{detected} of {len(rows)} objects detected**", *shown]),
        *_unsound(rows, names),
        _table(["IOF", *_COLUMNS, *_LEANING], [_means(scalars, parameter) for parameter in (*PARAMETERS, "")]),
        "**Least on the object**",
        _table(["object", "IOF", "score", "IoU"], ranked) if ranked else "none",
        f"**Missed since the audit before**: {_listed([names[key] for key in lost if key in names])}",
        f"**Missed**: {_listed([names[row.key] for row in rows if row.missed])}",
        f"**Undefined maps**: {_listed(undefined)}",
    ]
    return "\n\n".join(parts)


def _unsound(rows: Sequence[ObjectRow], names: Mapping[Key, str]) -> list[str]:
    """Name the objects whose detection does not stand alone, and those whose detection stands without them."""
    parts = []
    for name, title in (("sufficiency", "Lost with all else hidden"), ("necessity", "Detected with the object hidden")):
        values = [(row.occlusion[name], row) for row in rows if row.occlusion.get(name) is not None]
        low = sorted(((value, row.key, row) for value, row in values if value is not None and value < _LOW))
        if low:
            cells = [[names[key], _two_digits(value), _two_digits(row.box_mean("near"))] for value, key, row in low]
            parts += [f"**{title}**: {len(low)} of {len(values)}", _table(["object", name, "IOF near"], cells[:_WORST])]
    return parts


def _means(scalars: Mapping[str, float], parameter: str) -> list[str]:
    middle = f"/{parameter}/" if parameter else "/"
    names = [f"iof{middle}{region}" for region in _COLUMNS] + [f"enrichment{middle}edge"]
    names.append(f"position/{parameter or 'mean'}")
    return [parameter or "box mean", *(_two_digits(scalars.get(name)) for name in names)]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _two_digits(value: float | None) -> str:
    return number(value, 2, missing="")


def _name(row: ObjectRow) -> str:
    return f"{markdown(row.category)}, image {row.image_id}, annotation {row.annotation_id}"


def _listed(names: Sequence[str]) -> str:
    more = f"; and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ("; ".join(names[:_LISTED]) or "none") + more


def logged_step(trainer: Trainer) -> int:
    """Return the step under which Lightning logs the scalars of an evaluation.

    It is not ``trainer.global_step``, which counts every optimizer apart; pictures logged there would stand beside the
    wrong point of the curves.
    """
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def log_image(trainer: Trainer, tag: str, image: np.ndarray) -> None:
    """Log one picture to every TensorBoard logger, and to every other logger that has ``log_image`` (W&B).

    Args:
        trainer: whose loggers.
        tag: name of the picture, the same at every step.
        image: ``[H, W, 3]`` uint8 RGB.
    """
    step = logged_step(trainer)
    for logger in trainer.loggers:
        if isinstance(logger, lightning_classes("loggers.TensorBoardLogger")):
            logger.experiment.add_image(tag, image, step, dataformats="HWC")
        elif callable(own := getattr(logger, "log_image", None)):
            own(key=tag, images=[image], step=step)


def export_pictures(run: Path, folder: Path) -> list[Path]:
    """Write every picture of a TensorBoard run as a PNG file, ``<tag>/step_<step>.png``.

    Args:
        run: folder that holds the event files.
        folder: where to write; made if missing.

    Returns:
        The files, tag by tag in the order of their steps.
    """
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    written = []
    for tag in events.Tags()["images"]:
        make_folder(folder / tag)
        for event in events.Images(tag):
            path = folder / tag / f"step_{event.step:06d}.png"
            path.write_bytes(event.encoded_image_string)
            written.append(path)
    return written
