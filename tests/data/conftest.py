"""Two small COCO sets, to be changed by a test and then written; and whole data sets, generated and real."""

from pathlib import Path

import pytest
from helpers.coco_files import CocoFiles

from odsg_lightning.demo.shapes import ShapesDataset, make_shapes


@pytest.fixture
def train(tmp_path: Path) -> CocoFiles:
    return CocoFiles(tmp_path / "train")


@pytest.fixture
def val(tmp_path: Path) -> CocoFiles:
    return CocoFiles(tmp_path / "val")


@pytest.fixture(params=["shapes", pytest.param("coco_tiny", marks=pytest.mark.coco)])
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> ShapesDataset:
    """A data set with polygons: generated shapes, and real COCO images where they are."""
    if request.param == "shapes":
        return make_shapes(tmp_path / "shapes", n_train=8, n_val=24, seed=2)
    coco = request.getfixturevalue("coco_tiny")
    files = [coco / f"annotations/instances_{split}2017.json" for split in ("train", "val")]
    return ShapesDataset(files[0], coco / "train2017", files[1], coco / "val2017")
