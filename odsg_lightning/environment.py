"""What runs here: the versions of everything that matters, and whether it runs in continuous integration.

Importing this loads the standard library alone.
"""

import importlib.metadata
import importlib.util
import os
import platform
from importlib.machinery import PathFinder

from odsg_lightning import __version__

DETECTRON2 = ("detectron2", "pb1-detectron2", "detectron2-cdo")
"""The distributions that carry Detectron2, in the order in which they are looked for."""


def in_ci() -> bool:
    """Whether the environment variable ``CI`` is set, to anything but a word for no."""
    return os.environ.get("CI", "").strip().lower() not in ("", "0", "false", "no", "off")


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(*distributions: str) -> dict[str, str]:
    """Return the version of Python, of this package and of each distribution that is installed, by name.

    Never raises: a distribution with damaged metadata is left out. ``"detectron2"`` is found under each of the names in
    :data:`DETECTRON2`.

    Example:
        >>> sorted(versions("numpy", "no-such-distribution"))
        ['numpy', 'odsg_lightning', 'python']
    """
    installed = {"odsg_lightning": __version__, "python": platform.python_version()}
    for name in distributions:
        for distribution in DETECTRON2 if name == "detectron2" else (name,):
            version = _version(distribution)
            if version is not None:
                installed[name] = version
                break
    return installed


def detectron2_build() -> str:
    """Return which Detectron2 is there, in words, from its files alone: importing it loads torch."""
    spec = importlib.util.find_spec("detectron2")
    if spec is None:
        return "not installed"
    known = ((_version(name), name) for name in DETECTRON2)
    # Without metadata it is a source tree on the path.
    distribution = next((f"{version} ({name})" for version, name in known if version is not None), "of unknown version")
    compiled = PathFinder.find_spec("detectron2._C", spec.submodule_search_locations) is not None
    return f"{distribution}, {'with' if compiled else 'without'} compiled operators"


def _version(distribution: str) -> str | None:
    try:
        return str(importlib.metadata.version(distribution))
    except Exception:  # not installed, or damaged metadata
        return None
