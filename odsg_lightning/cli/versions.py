"""``odsg --version``: the versions that a bug report needs."""

import argparse
import importlib.metadata
import importlib.util
import sys
from importlib.machinery import PathFinder
from typing import Any

from odsg_lightning import __version__

_REPORTED = ("torch", "torchvision", "lightning", "torchmetrics", "detectron2", "pycocotools", "tensorboard", "numpy")


class PrintVersions(argparse.Action):
    """Prints versions, one per line, and ends the program. They are looked up only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:  # noqa: ANN401 - what argparse parsed
        """Print them and leave."""
        print(f"odsg_lightning {__version__}")
        print(f"Python {sys.version.split()[0]}")
        for name in _REPORTED:
            print(f"{name} {_version_of(name)}")
        parser.exit()


def _version_of(name: str) -> str:
    if name == "detectron2":
        return _detectron2_version()
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _detectron2_version() -> str:
    """Look at the files only: importing Detectron2 loads torch."""
    spec = importlib.util.find_spec("detectron2")
    if spec is None:
        return "not installed"
    version = "of unknown version"  # a source tree on the path
    for distribution in ("detectron2", "detectron2-cdo"):
        try:
            version = f"{importlib.metadata.version(distribution)} ({distribution})"
            break
        except importlib.metadata.PackageNotFoundError:
            continue
    compiled = PathFinder.find_spec("detectron2._C", spec.submodule_search_locations) is not None
    return f"{version}, {'with' if compiled else 'without'} compiled operators"
