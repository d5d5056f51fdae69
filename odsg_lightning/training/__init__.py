"""Fine-tuning a Detectron2 detector with Lightning."""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """Find the callback where configurations of version 0.1.0 may name it: ``odsg_lightning.training.callback``."""
    if name == "callback":
        return import_module("odsg_lightning.callback.callback")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
