"""What every test shares: one thread count, and the real COCO images where they are."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from odsg_lightning.types import AuditSample

os.environ.setdefault("MPLBACKEND", "Agg")
torch.set_num_threads(1)  # two would only fight with the data loader workers and other test processes

COCO_TINY = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco_tiny"


@pytest.fixture(scope="session")
def coco_tiny() -> Path:
    """Folder of 160 real COCO images; the test is skipped, and says so, where it is not there."""
    if not COCO_TINY.is_dir():
        pytest.skip(f"real COCO images are not at {COCO_TINY}")
    return COCO_TINY


@dataclass(frozen=True)
class TrainedDetector:
    """A real detector that has learned something, and images that it has not seen."""

    model: nn.Module
    samples: list[AuditSample]


def _trained(name: str, iterations: int, folder: Path) -> TrainedDetector:
    from helpers.trained import load_samples, make_shapes, train

    model = train(name, folder, iterations)
    shapes = make_shapes(folder, n_train=240, n_val=24, seed=3)
    return TrainedDetector(model, load_samples(shapes.val_annotations, shapes.val_images))


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the generated shapes lie that the trained detectors saw."""
    return tmp_path_factory.mktemp("shapes") / "data"


@pytest.fixture(scope="session")
def trained_retinanet(shapes_folder: Path) -> TrainedDetector:
    """A tiny Detectron2 RetinaNet, trained once for all tests (25 s)."""
    return _trained("retinanet_tiny", 200, shapes_folder)


@pytest.fixture(scope="session")
def trained_faster_rcnn(shapes_folder: Path) -> TrainedDetector:
    """A tiny Detectron2 Faster R-CNN, trained once for all tests (30 s)."""
    return _trained("faster_rcnn_tiny", 160, shapes_folder)
