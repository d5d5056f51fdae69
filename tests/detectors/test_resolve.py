import subprocess
import sys

import pytest
from helpers.known_detectors import LinearDetector, two_objects
from lightning.pytorch import LightningModule
from torch import nn

from odsg_lightning import resolve_adapter
from odsg_lightning.detectors.build import build_detector, load_config
from odsg_lightning.detectors.detectron2 import Detectron2Adapter
from odsg_lightning.errors import UserInputError


@pytest.fixture(scope="module")
def detector():
    return build_detector(load_config("retinanet_tiny"))


class Plain(LightningModule):
    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)


def test_object_with_detect_is_used_as_it_is():
    known = LinearDetector(*two_objects())
    assert resolve_adapter(known) is known


def test_detectron2_model_itself(detector):
    adapter = resolve_adapter(detector)
    assert isinstance(adapter, Detectron2Adapter)
    assert adapter.model is detector


def test_model_inside_a_lightning_module(detector):
    assert resolve_adapter(Plain(nn.Linear(1, 1), nn.Sequential(detector))).model is detector


def test_one_model_under_two_names_is_one(detector):
    assert resolve_adapter(Plain(detector, nn.Sequential(detector))).model is detector


def test_two_models_are_refused(detector):
    other = build_detector(load_config("faster_rcnn_tiny"))
    with pytest.raises(UserInputError, match=r"found 2 \(RetinaNet of detectron2, GeneralizedRCNN of detectron2\)"):
        resolve_adapter(Plain(detector, other))


@pytest.mark.parametrize("what", [Plain(nn.Linear(1, 1)), "a string", None])
def test_nothing_to_audit_is_refused_with_what_to_do(what):
    with pytest.raises(UserInputError, match=r"but found none. Give it a method `detect"):
        resolve_adapter(what)


def loaded(statement: str, module: str) -> bool:
    """Whether a statement loads a module, in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint({module!r} in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return run.stdout.strip().splitlines()[-1] == "True"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "module", "expected"),
    [
        ("import odsg_lightning", "torch", False),
        ("from odsg_lightning import ODSmoothGradCallback", "detectron2", False),
        ("from odsg_lightning import CocoDetectionDataModule", "detectron2", False),
        ("from odsg_lightning import IntersectionOverForeground", "lightning", False),
        ("from odsg_lightning import DetectionModule", "detectron2", True),  # that the check can fail
    ],
)
def test_imports_stay_light(statement, module, expected):
    assert loaded(statement, module) is expected
