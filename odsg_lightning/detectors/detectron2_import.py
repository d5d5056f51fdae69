"""Makes ``import detectron2`` work on every build: official, from source, or the pure-Python ones from PyPI.

``import odsg_lightning`` installs what is below, and that is all: nothing is imported, and nothing changes for a
Detectron2 that was compiled. For one that was not, ``detectron2._C`` is a stand-in whose operators raise when they are
used. The names of Detectron2 that this package uses come from :mod:`odsg_lightning.detectors.detectron2_names`.
"""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_COMPILED = "detectron2._C"


class _MissingOperators(ModuleType):
    """Stands in for the compiled module."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(
            f"{_COMPILED}.{name} is a compiled operator (deformable convolution, rotated boxes), and this Detectron2 "
            "was installed without them. RetinaNet and Faster R-CNN do not need it; for a model that does, install a "
            "compiled Detectron2."
        )


class _StandInLoader(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _MissingOperators(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: there is no code."""


class Detectron2Finder(MetaPathFinder):
    """Prepares the import of Detectron2 when somebody asks for it, and finds the stand-in for what was not compiled."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """See ``importlib.abc.MetaPathFinder``; None leaves the module to the usual finders."""
        if name.partition(".")[0] == "detectron2":  # any part of it: the package may have been imported before this one
            _restore_pil_linear()
        if name != _COMPILED or PathFinder.find_spec(name, path) is not None:
            return None
        return ModuleSpec(name, _StandInLoader())


def install_finder() -> None:
    """Put the finder before the usual ones; a second call changes nothing."""
    if not any(isinstance(finder, Detectron2Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Detectron2Finder())


def _restore_pil_linear() -> None:
    """Give Pillow 10 and later the name that Detectron2 0.5 reads at import."""
    try:
        from PIL import Image
    except Exception:  # none, or a broken one: whoever needs it is told there
        return
    if not hasattr(Image, "LINEAR"):
        Image.LINEAR = Image.BILINEAR  # type: ignore[attr-defined]
