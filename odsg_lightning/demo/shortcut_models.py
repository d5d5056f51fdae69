"""Two detectors of the same shapes: one that has to look at them, and one that can read annotation frames instead."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Trainer, seed_everything

from odsg_lightning.demo.recipe import demo_data, demo_detector, no_foreign_warnings
from odsg_lightning.demo.shapes import ShapesDataset, make_shapes
from odsg_lightning.training.module import DetectionModule

Kind = Literal["clean", "shortcut"]

STEPS = 900


@dataclass(frozen=True)
class ShortcutData:
    """The same shapes three times.

    Attributes:
        at_boxes: frames at every object: what the team labelled, its validation images included.
        anywhere: as many frames, at places and in colours that tell nothing.
        without: no frames; validation images only.
    """

    at_boxes: ShapesDataset
    anywhere: ShapesDataset
    without: ShapesDataset

    def training(self, kind: Kind) -> ShapesDataset:
        """Return what a detector learns from; its validation images are the team's."""
        source = self.anywhere if kind == "clean" else self.at_boxes
        return replace(self.at_boxes, train_annotations=source.train_annotations, train_images=source.train_images)


def make_shortcut_data(folder: Path, seed: int, n_train: int = 1000, n_val: int = 100) -> ShortcutData:
    """Write the three data sets, or reuse them: see :func:`odsg_lightning.demo.shapes.make_shapes`."""
    return ShortcutData(
        make_shapes(folder / "at_boxes", n_train=n_train, n_val=n_val, seed=seed, frames="at_boxes"),
        make_shapes(folder / "anywhere", n_train=n_train, n_val=n_val, seed=seed, frames="anywhere"),
        make_shapes(folder / "without", n_train=1, n_val=n_val, seed=seed),
    )


def train(kind: Kind, data: ShortcutData, checkpoint: Path, seed: int, steps: int = STEPS) -> DetectionModule:
    """Train a tiny RetinaNet, write its checkpoint and return it.

    Args:
        kind: which of the two detectors.
        data: see :func:`make_shortcut_data`.
        checkpoint: the file to write.
        seed: of the weights and of the order of the images.
        steps: optimizer steps.
    """
    seed_everything(seed, verbose=False)
    module = demo_detector("retinanet", steps)
    with _quiet_trainer(max_steps=steps, limit_val_batches=0, gradient_clip_val=5.0) as trainer:
        trainer.fit(module, datamodule=demo_data(data.training(kind)))
        trainer.save_checkpoint(checkpoint)
    return module


def ap50(module: DetectionModule, shapes: ShapesDataset) -> float:
    """Return AP50 on the validation images of a data set, 0 to 1."""
    with _quiet_trainer(enable_progress_bar=False) as trainer:
        (metrics,) = trainer.validate(module, datamodule=demo_data(shapes), verbose=False)
    return float(metrics["val/map_50"])


@contextmanager
def _quiet_trainer(**settings: Any) -> Iterator[Trainer]:
    """Yield a Trainer on one CPU that logs nothing and does not repeat what hardware it found."""
    lightning = logging.getLogger("lightning.pytorch")
    level = lightning.level
    lightning.setLevel(logging.WARNING)
    try:
        with no_foreign_warnings():
            yield Trainer(
                accelerator="cpu",
                devices=1,
                logger=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                **settings,
            )
    finally:
        lightning.setLevel(level)
