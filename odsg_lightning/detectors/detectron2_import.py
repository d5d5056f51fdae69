"""Makes ``import detectron2`` work on every build: official, from source, or the pure-Python one from PyPI.

Call :func:`require_detectron2` before the first ``import detectron2``. It changes nothing in a Detectron2 that was
compiled; in one that was not, it puts a stand-in at ``detectron2._C`` whose operators raise when they are used.
"""

import importlib.util
import sys
from types import ModuleType
from typing import Any

_HOW_TO_INSTALL = (
    "Detectron2 is not installed, and this part of odsg_lightning needs it. Install an official build, or the "
    "pure-Python one from PyPI with the two commands of the README's section 'Installing Detectron2'."
)


class _MissingOperators(ModuleType):
    """Stands in for the compiled module ``detectron2._C``."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - a module's attribute
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(
            f"detectron2._C.{name} is a compiled operator (deformable convolution, rotated boxes), and this "
            "Detectron2 was installed without them. RetinaNet and Faster R-CNN do not need it; for a model that does, "
            "install a compiled Detectron2."
        )


def require_detectron2() -> None:
    """Make Detectron2 importable here, whatever build it is.

    Raises:
        ImportError: Detectron2 is not installed; the message says how to install it.
    """
    if "detectron2" not in sys.modules and importlib.util.find_spec("detectron2") is None:
        raise ImportError(_HOW_TO_INSTALL)
    _restore_pil_linear()
    if "detectron2._C" in sys.modules or importlib.util.find_spec("detectron2._C") is not None:
        return
    import detectron2

    stand_in = _MissingOperators("detectron2._C")
    sys.modules["detectron2._C"] = stand_in
    detectron2._C = stand_in


def _restore_pil_linear() -> None:
    """Give Pillow 10 and later the name that Detectron2 0.5 reads at import."""
    from PIL import Image

    if not hasattr(Image, "LINEAR"):
        Image.LINEAR = Image.BILINEAR  # type: ignore[attr-defined]
