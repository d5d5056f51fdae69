"""ODSmoothGrad as a Lightning audit callback: is your detector right for the right reasons?

Public names are loaded on first use (PEP 562), so that importing a small part stays light: the callback
does not load Detectron2, and reading a record does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from odsg_lightning.detectors.detectron2_import import install_finder

if TYPE_CHECKING:
    from odsg_lightning.adapter_check.check import check_adapter
    from odsg_lightning.callback.callback import ODSmoothGradCallback
    from odsg_lightning.data.datamodule import CocoDetectionDataModule
    from odsg_lightning.detectors.resolve import resolve_adapter
    from odsg_lightning.explanations.explain import explain
    from odsg_lightning.metrics.iof import IntersectionOverForeground
    from odsg_lightning.training.module import DetectionModule

__version__ = "0.1.0"

__all__ = [
    "CocoDetectionDataModule",
    "DetectionModule",
    "IntersectionOverForeground",
    "ODSmoothGradCallback",
    "check_adapter",
    "explain",
    "resolve_adapter",
]

_HOME = {
    "CocoDetectionDataModule": "odsg_lightning.data.datamodule",
    "DetectionModule": "odsg_lightning.training.module",
    "IntersectionOverForeground": "odsg_lightning.metrics.iof",
    "ODSmoothGradCallback": "odsg_lightning.callback.callback",
    "check_adapter": "odsg_lightning.adapter_check.check",
    "explain": "odsg_lightning.explanations.explain",
    "resolve_adapter": "odsg_lightning.detectors.resolve",
}


install_finder()  # so that `import detectron2` works from here on, whatever build it is


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
