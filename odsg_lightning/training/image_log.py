"""Sends pictures to the Trainer's loggers, at the step at which Lightning writes the scalars; and gets them back."""

from pathlib import Path

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


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
        if isinstance(logger, TensorBoardLogger):
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
        (folder / tag).mkdir(parents=True, exist_ok=True)
        for event in events.Images(tag):
            path = folder / tag / f"step_{event.step:06d}.png"
            path.write_bytes(event.encoded_image_string)
            written.append(path)
    return written
