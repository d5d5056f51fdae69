"""Every build of Detectron2 must import, and a missing one must be told in one clear message."""

import subprocess
import sys

import pytest

from odsg_lightning.detectors.detectron2_import import require_detectron2

HIDE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name == "detectron2":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.startswith("detectron2") else find(name, *rest)
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_missing_detectron2_is_told_with_what_to_do():
    result = run(HIDE + "from odsg_lightning import DetectionModule")
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: Detectron2 is not installed, and this part of odsg_lightning needs it.")
    assert "README's section 'Installing Detectron2'" in last


@pytest.mark.slow
def test_the_rest_works_without_detectron2():
    code = "from odsg_lightning import CocoDetectionDataModule, IntersectionOverForeground, ODSmoothGradCallback"
    assert run(f"{HIDE}{code}").returncode == 0


@pytest.mark.slow
def test_compiled_operators_are_left_alone():
    code = """
import sys, types
import detectron2
compiled = sys.modules["detectron2._C"] = types.ModuleType("detectron2._C")
from odsg_lightning.detectors.detectron2_import import require_detectron2
require_detectron2()
assert sys.modules["detectron2._C"] is compiled
"""
    assert run(code).stderr == ""


def test_operator_that_was_not_compiled_is_named_when_used():
    require_detectron2()
    from detectron2 import _C

    if not isinstance(_C, type(sys)) or hasattr(_C, "__file__"):
        pytest.skip("this Detectron2 is compiled")
    with pytest.raises(ImportError, match=r"detectron2\._C\.nms_rotated is a compiled operator \(deformable conv"):
        _ = _C.nms_rotated


def test_twice_is_once():
    require_detectron2()
    before = sys.modules["detectron2._C"]
    require_detectron2()
    assert sys.modules["detectron2._C"] is before
