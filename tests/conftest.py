"""What every test shares: one thread count, no CI, and the real COCO images where they are."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from torch import nn

from odsg_lightning.types import AuditSample

os.environ.setdefault("MPLBACKEND", "Agg")
for name in ("CI", "GITHUB_STEP_SUMMARY", "ODSG_DEBUG"):  # as for a person, in CI too; tests that are about one set it
    os.environ.pop(name, None)
torch.set_num_threads(1)  # two would only fight with the data loader workers and other test processes

COCO_TINY = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco_tiny"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, default=100, metavar="N", help="mutations of each format in tests/fuzz")


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


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of one test run share, so that what takes long is made once."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def shapes_folder(shared_folder: Path) -> Path:
    """Where the generated shapes lie that the trained detectors saw."""
    return shared_folder / "shapes"


@pytest.fixture(scope="session")
def trained_retinanet(shared_folder: Path, shapes_folder: Path) -> TrainedDetector:
    """A tiny Detectron2 RetinaNet, trained once for all tests (25 s)."""
    return _trained("retinanet_tiny", 200, shared_folder, shapes_folder)


@pytest.fixture(scope="session")
def trained_faster_rcnn(shared_folder: Path, shapes_folder: Path) -> TrainedDetector:
    """A tiny Detectron2 Faster R-CNN, trained once for all tests (30 s)."""
    return _trained("faster_rcnn_tiny", 160, shared_folder, shapes_folder)


def _trained(name: str, iterations: int, shared: Path, shapes_folder: Path) -> TrainedDetector:
    from helpers.trained import load_samples, make_shapes, train

    from odsg_lightning.detectors.build import build_detector, load_config

    weights = shared / f"{name}.pt"
    with FileLock(f"{weights}.lock"):
        if not weights.exists():
            unfinished = weights.with_suffix(".unfinished")
            torch.save(train(name, shapes_folder, iterations).state_dict(), unfinished)
            unfinished.rename(weights)
    model = build_detector(load_config(name))
    model.load_state_dict(torch.load(weights))
    shapes = make_shapes(shapes_folder, n_train=240, n_val=24, seed=3)
    return TrainedDetector(model.eval(), load_samples(shapes.val_annotations, shapes.val_images))
