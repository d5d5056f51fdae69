"""Two small COCO sets, to be changed by a test and then written."""

from pathlib import Path

import pytest
from helpers.coco_files import CocoFiles


@pytest.fixture
def train(tmp_path: Path) -> CocoFiles:
    return CocoFiles(tmp_path / "train")


@pytest.fixture
def val(tmp_path: Path) -> CocoFiles:
    return CocoFiles(tmp_path / "val")
