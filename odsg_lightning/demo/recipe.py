"""What the demonstrations train: two tiny detectors, their data and their recipe."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from odsg_lightning.data.datamodule import CocoDetectionDataModule
from odsg_lightning.demo.shapes import ShapesDataset, make_shapes
from odsg_lightning.training.module import DetectionModule

DetectorName = Literal["retinanet", "faster-rcnn"]

RECIPES = {"retinanet": ("retinanet_tiny", 900), "faster-rcnn": ("faster_rcnn_tiny", 600)}
"""Configuration and number of steps with which each detector learns the shapes."""


def demo_parts(
    detector: DetectorName, shapes_folder: Path, steps: int, seed: int = 0
) -> tuple[DetectionModule, CocoDetectionDataModule]:
    """Return the untrained detector of the demonstration and its data.

    Args:
        detector: which of the two tiny detectors.
        shapes_folder: where the generated images lie, or are put.
        steps: of the training, over which the learning rate rises and falls.
        seed: of the data; the weights are those of the random state.
    """
    return demo_detector(detector, steps), demo_data(make_shapes(shapes_folder, seed=seed))


def demo_detector(detector: DetectorName, steps: int) -> DetectionModule:
    """Return one of the two tiny detectors, untrained, with what trains it in so many steps."""
    return DetectionModule(
        RECIPES[detector][0],
        num_classes="auto",
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=2e-3, weight_decay=1e-4),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 2e-3, total_steps=steps, pct_start=0.15
        ),
        map_backend="pycocotools",
    )


def demo_data(shapes: ShapesDataset) -> CocoDetectionDataModule:
    """Return the data module of a generated data set."""
    return CocoDetectionDataModule(
        shapes.train_annotations,
        shapes.train_images,
        shapes.val_annotations,
        shapes.val_images,
        batch_size=8,
        min_size=[128],
        min_size_eval=128,
        num_workers=0,  # images of 128 px load faster than they travel between processes
    )


@contextmanager
def no_foreign_warnings() -> Iterator[None]:
    """Keep warnings back that PyTorch and Lightning raise about one another's and Detectron2's code."""
    with warnings.catch_warnings():
        for message in (".*torch.meshgrid", ".*LeafSpec"):
            warnings.filterwarnings("ignore", message=message)
        yield
