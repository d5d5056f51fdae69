"""What every test shares: one thread count, and the real COCO images where they are."""

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("MPLBACKEND", "Agg")
torch.set_num_threads(2)

COCO_TINY = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco_tiny"


@pytest.fixture(scope="session")
def coco_tiny() -> Path:
    """Folder of 160 real COCO images; the test is skipped, and says so, where it is not there."""
    if not COCO_TINY.is_dir():
        pytest.skip(f"real COCO images are not at {COCO_TINY}")
    return COCO_TINY
