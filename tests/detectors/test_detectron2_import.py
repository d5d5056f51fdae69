"""Every build of Detectron2 must import, and a missing one must be told in one clear message."""

import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import detectron2
import pytest

from odsg_lightning.detectors.detectron2_import import Detectron2Finder, install_finder

COMPILED = PathFinder.find_spec("detectron2._C", detectron2.__path__) is not None

# As if it were not installed: no finder finds it, and none raises.
HIDE = """
import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] == "{hidden}" else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""


def run(code: str, hidden: str | None = None) -> str:
    """Run code in a fresh process and return what it printed last."""
    code = code if hidden is None else HIDE.format(hidden=hidden) + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return (done.stdout.strip().splitlines() or [""])[-1]


class TestInstalled:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        "before",
        [
            "import odsg_lightning",
            "from detectron2.config import get_cfg; import odsg_lightning",  # as sorted imports have it
        ],
    )
    def test_a_plain_import_works_from_here_on(self, before):
        code = """
import detectron2.modeling, detectron2.data.transforms, detectron2.layers, detectron2.structures
print(*sorted(name for name in sys.modules if name.startswith("odsg_lightning.")))
"""
        loaded = run(f"import sys\n{before}\n{code}")
        assert loaded == "odsg_lightning.detectors odsg_lightning.detectors.detectron2_import"  # and nothing private

    def test_importing_this_package_loads_nothing_of_it(self):
        loaded = run(
            "import sys, odsg_lightning; print({'torch', 'PIL', 'detectron2', 'detectron2._C'} & set(sys.modules))"
        )
        assert loaded == "set()"

    def test_looking_whether_it_is_there_does_not_import_it(self):
        code = """
import importlib.util, sys
import odsg_lightning
print(importlib.util.find_spec("detectron2").name, "detectron2" in sys.modules)
"""
        assert run(code) == "detectron2 False"

    def test_installing_the_finder_again_changes_nothing(self):
        before = list(sys.meta_path)
        install_finder()
        install_finder()
        assert sys.meta_path == before
        assert sum(isinstance(finder, Detectron2Finder) for finder in before) == 1

    @pytest.mark.parametrize("name", ["detectron2", "detectron2.modeling", "detectron2._Cython", "torch._C", "_C"])
    def test_other_modules_are_left_to_the_usual_finders(self, name):
        path = detectron2.__path__ if name.startswith("detectron2.") else None
        assert Detectron2Finder().find_spec(name, path) is None


class TestCompiledOperators:
    def test_a_compiled_module_is_left_alone(self, tmp_path):
        (tmp_path / "_C.py").write_text("def nms_rotated(): return 'compiled'")
        code = f"""
import odsg_lightning
import detectron2
detectron2.__path__.insert(0, {str(tmp_path)!r})
from detectron2 import _C
print(_C.nms_rotated(), _C.__file__)
"""
        assert run(code) == f"compiled {tmp_path / '_C.py'}"

    @pytest.mark.slow
    def test_one_that_is_loaded_already_is_left_alone(self):
        code = """
import sys, types
import detectron2
compiled = sys.modules["detectron2._C"] = types.ModuleType("detectron2._C")
import odsg_lightning
import detectron2._C
from detectron2 import layers
print(sys.modules["detectron2._C"] is compiled, layers.deform_conv._C is compiled)
"""
        assert run(code) == "True True"

    @pytest.mark.parametrize("error", ["ImportError('libtorch.so: no such symbol')", "OSError('not a library')"])
    def test_one_that_cannot_be_loaded_is_not_hidden(self, tmp_path, error):
        (tmp_path / "_C.py").write_text(f"raise {error}")
        code = f"""
import odsg_lightning
import detectron2
detectron2.__path__.insert(0, {str(tmp_path)!r})
try:
    from detectron2 import _C
except (ImportError, OSError) as error:
    print(repr(error))
"""
        assert run(code) == error

    @pytest.mark.skipif(COMPILED, reason="this Detectron2 is compiled")
    @pytest.mark.parametrize("name", ["nms_rotated", "deform_conv_forward", "COCOevalAccumulate"])
    def test_an_operator_that_was_not_compiled_is_named_when_it_is_used(self, name):
        from detectron2 import _C

        with pytest.raises(ImportError, match=rf"detectron2\._C\.{name} is a compiled operator \(deformable conv"):
            getattr(_C, name)
        with pytest.raises(ImportError, match="RetinaNet and Faster R-CNN do not need it"):
            getattr(_C, name)

    @pytest.mark.skipif(COMPILED, reason="this Detectron2 is compiled")
    def test_what_looks_at_every_module_may_look_at_the_stand_in(self):
        from detectron2 import _C

        assert _C.__name__ == "detectron2._C"
        assert not hasattr(_C, "__file__")
        assert not hasattr(_C, "__warningregistry__")
        assert sys.modules["detectron2._C"] is _C


class TestMissing:
    def test_it_is_found_missing_without_an_error(self):
        code = """
import importlib.util
import odsg_lightning
print(importlib.util.find_spec("detectron2"))
"""
        assert run(code, hidden="detectron2") == "None"

    def test_a_plain_import_raises_what_it_always_does(self):
        code = """
import odsg_lightning
try:
    import detectron2.modeling
except ModuleNotFoundError as error:
    print(error)
"""
        assert run(code, hidden="detectron2") == "No module named 'detectron2'"

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "statement",
        ["from odsg_lightning import DetectionModule", "import odsg_lightning.detectors.build"],
    )
    def test_it_is_told_with_what_to_do(self, statement):
        code = f"""
from odsg_lightning.errors import MissingDependencyError
try:
    {statement}
except ImportError as error:
    assert type(error) is MissingDependencyError, repr(error)
    print(error)
"""
        told = run(code, hidden="detectron2")
        assert told.startswith("Detectron2 is not installed, and this part of odsg_lightning needs it. Install ")
        assert "README's section 'Installing Detectron2'" in told

    @pytest.mark.slow
    def test_the_rest_works_without_it(self):
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})"
        code += """
from helpers.known_detectors import LinearDetector, box_sample, two_objects
from odsg_lightning import CocoDetectionDataModule, IntersectionOverForeground, ODSmoothGradCallback, resolve_adapter
from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.loop import audit
from odsg_lightning.gate import compare
detector = resolve_adapter(LinearDetector(*two_objects()))
sample = box_sample([[2, 2, 12, 12], [10, 8, 22, 20]], [0, 1])
sample = type(sample)(**{**vars(sample), "image": sample.image.double()})
print([found.missed for found in audit(detector, [sample], AuditConfig(n_samples=1))])
"""
        assert run(code, hidden="detectron2") == "[False, False]"

    @pytest.mark.slow
    def test_what_detectron2_itself_misses_is_named_as_it_is(self):
        code = """
try:
    import odsg_lightning.detectors.build
except ImportError as error:
    print(type(error).__name__, error.name)
"""
        assert run(code, hidden="fvcore") == "ModuleNotFoundError fvcore"
