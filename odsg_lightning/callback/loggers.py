"""What each logger takes besides scalars, which Lightning gives to all: pictures, and the table of the worst objects.

======================= ============================================= ==================================================
logger                  pictures                                      table
======================= ============================================= ==================================================
TensorBoard             *Images*                                      *Text*, in the summary
W&B                     media                                         ``wandb.Table``
MLflow                  image charts                                  artifact ``audit/worst_objects/step_<step>.json``
Comet                   graphics                                      asset ``audit/worst_objects_step_<step>.csv``
any with ``log_image``  as W&B                                        none
none of these (CSV)     ``strips/<tag>/step_<step>.png`` in the       none
                        folder of the first
======================= ============================================= ==================================================

No package is loaded here: whoever made the logger has loaded its own.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from numpy.typing import NDArray
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.summary_pb2 import Summary

from odsg_lightning.callback.packages import lightning_classes
from odsg_lightning.errors import UserInputError
from odsg_lightning.files import make_folder, replaced

Cells = Sequence[Sequence[str | int | float | None]]

_TABLE = "audit/worst_objects"
_RUN_LENGTHS = 3  # zlib's strategy Z_RLE


def log_pictures(trainer: Trainer, pictures: Mapping[str, NDArray[np.uint8]], step: int) -> None:
    """Log pictures to every logger that takes some; as PNG files if a Trainer has loggers and none of them does.

    Args:
        trainer: whose loggers; of the first process.
        pictures: ``[H, W, 3]`` RGB, by a name that is the same at every step.
        step: under which the scalars of the same audit stand.

    Raises:
        UserInputError: there are files to write, and the folder is none of this machine.
    """
    takers = [(logger, take) for logger in trainer.loggers if (take := _picture_taker(logger)) is not None]
    for tag, picture in pictures.items():
        for logger, take in takers:
            take(logger, tag, picture, step)
        if trainer.loggers and not takers:
            _write_png(_folder_of(trainer.loggers[0], trainer.default_root_dir) / "strips", tag, step, picture)


def log_table(trainer: Trainer, columns: Sequence[str], cells: Cells, step: int) -> None:
    """Log the table of the worst objects to every logger that has tables, but for TensorBoard, which has text.

    Args:
        trainer: whose loggers; of the first process.
        columns: their names.
        cells: row by row.
        step: under which the scalars of the same audit stand.
    """
    for logger in trainer.loggers:
        for path, take in _TABLES.items():
            if isinstance(logger, lightning_classes(path)):
                take(logger, list(columns), [list(row) for row in cells], step)


def export_pictures(run: Path, folder: Path) -> list[Path]:
    """Write every picture of a TensorBoard run as a PNG file, ``<tag>/step_<step>.png``.

    Args:
        run: folder that holds the event files.
        folder: where to write; made if missing.

    Returns:
        The files, tag by tag in the order of their steps.
    """
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    return [
        _write_png(folder, tag, event.step, event.encoded_image_string)
        for tag in events.Tags()["images"]
        for event in events.Images(tag)
    ]


def _folder_of(logger: Any, otherwise: str) -> Path:
    # Not trainer.log_dir, which every process would have to ask for at the same time.
    folder = str(getattr(logger, "log_dir", None) or logger.save_dir or otherwise)
    if "://" in folder:
        raise UserInputError(
            f"Expected a local folder to write the strips to, because {type(logger).__name__} takes no pictures, but "
            f"got {folder}. Add a TensorBoardLogger, or set max_strips=0."
        )
    return Path(folder)


def _write_png(folder: Path, tag: str, step: int, picture: NDArray[np.uint8] | bytes) -> Path:
    make_folder(folder / tag)
    path = folder / tag / f"step_{step:06d}.png"
    with replaced(path) as unfinished:
        unfinished.write_bytes(picture if isinstance(picture, bytes) else _png(picture))
    return path


def _png(picture: NDArray[np.uint8]) -> bytes:
    """Pack a picture four times as fast as by default, into a tenth more bytes: packing took longer than drawing."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG", compress_type=_RUN_LENGTHS)
    return stream.getvalue()


def _picture_to_tensorboard(logger: Any, tag: str, picture: NDArray[np.uint8], step: int) -> None:
    # Not add_image(), which takes more than twice as long: it goes through floats, resamples, and packs in its own way.
    height, width, channels = picture.shape
    image = Summary.Image(height=height, width=width, colorspace=channels, encoded_image_string=_png(picture))
    logger.experiment._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)


def _picture_to_mlflow(logger: Any, tag: str, picture: NDArray[np.uint8], step: int) -> None:
    logger.experiment.log_image(logger.run_id, picture, key=tag, step=step)


def _picture_to_comet(logger: Any, tag: str, picture: NDArray[np.uint8], step: int) -> None:
    logger.experiment.log_image(Image.fromarray(picture), name=tag, step=step)


def _picture_as_wandb(logger: Any, tag: str, picture: NDArray[np.uint8], step: int) -> None:
    logger.log_image(key=tag, images=[picture], step=step)


def _table_to_wandb(logger: Any, columns: list[str], cells: list[list[Any]], step: int) -> None:
    logger.log_table(key=_TABLE, columns=columns, data=cells, step=step)


def _table_to_mlflow(logger: Any, columns: list[str], cells: list[list[Any]], step: int) -> None:
    # As MLflow's own log_table writes one, which needs pandas.
    table = {"columns": columns, "data": cells}
    logger.experiment.log_dict(logger.run_id, table, f"{_TABLE}/step_{step:06d}.json")


def _table_to_comet(logger: Any, columns: list[str], cells: list[list[Any]], step: int) -> None:
    logger.experiment.log_table(f"{_TABLE}_step_{step:06d}.csv", cells, headers=columns)


_PICTURES: Mapping[str, Callable[[Any, str, NDArray[np.uint8], int], None]] = {
    "loggers.TensorBoardLogger": _picture_to_tensorboard,
    "loggers.MLFlowLogger": _picture_to_mlflow,
    "loggers.CometLogger": _picture_to_comet,
}
_TABLES: Mapping[str, Callable[[Any, list[str], list[list[Any]], int], None]] = {
    "loggers.WandbLogger": _table_to_wandb,
    "loggers.MLFlowLogger": _table_to_mlflow,
    "loggers.CometLogger": _table_to_comet,
}


def _picture_taker(logger: object) -> Callable[[Any, str, NDArray[np.uint8], int], None] | None:
    for path, take in _PICTURES.items():
        if isinstance(logger, lightning_classes(path)):
            return take
    return _picture_as_wandb if callable(getattr(logger, "log_image", None)) else None
