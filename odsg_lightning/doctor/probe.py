"""Imports packages and says what came of each: a script for a process of its own, which a package may bring down.

The standard library alone is loaded, besides what is asked for. Run as ``python probe.py <module> ...``; each result is
a line of JSON on standard output.
"""

import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

MARK = "odsg-doctor "
"""Begins a line of ours; packages print when they are imported, too."""


def main(names: list[str]) -> None:
    """Import the modules in order, and print what came of each, as soon as it is known."""
    for name in names:
        print(f"\n{MARK}{json.dumps({'begins': name})}", flush=True)
        print(f"\n{MARK}{json.dumps({'name': name, **_probe(name)})}", flush=True)


def _probe(name: str) -> dict[str, Any]:
    try:
        module = importlib.import_module(name)
        more = _MORE.get(name)
        return {"version": str(getattr(module, "__version__", "")), **(more(module) if more else {})}
    except BaseException as error:  # a package may call sys.exit, too
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            return {"missing": True}
        lines = str(error).strip().splitlines()
        return {"error": f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__}


def _of_torch(torch: Any) -> dict[str, Any]:
    devices = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append({"name": properties.name, "bytes": properties.total_memory})
    return {"cuda_build": torch.version.cuda, "devices": devices, "threads": torch.get_num_threads()}


def _of_detectron2(_: Any) -> dict[str, Any]:
    from odsg_lightning.detectors.detectron2_import import install_finder

    install_finder()
    importlib.import_module("detectron2.modeling")
    return {}


_MORE: dict[str, Callable[[Any], dict[str, Any]]] = {"torch": _of_torch, "detectron2": _of_detectron2}
"""What else is asked of a package, whose import alone would not show it."""

if __name__ == "__main__":
    main(sys.argv[1:])
