"""Which packages are here, of which version, and whether they can be imported. Nothing of them is loaded here."""

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from odsg_lightning.doctor import probe
from odsg_lightning.environment import versions

REQUIRED = (
    "numpy", "scipy", "PIL", "matplotlib", "yaml", "rich", "tqdm", "jinja2", "fastjsonschema", "jsonargparse", "torch",
    "torchvision", "torchmetrics", "lightning", "tensorboard", "pycocotools",
)  # fmt: skip
"""Modules without which the package does not do its main job."""

OPTIONAL = ("pytorch_lightning", "detectron2", "transformers", "rfdetr", "faster_coco_eval", "globox")
LOGGERS = ("wandb", "mlflow", "comet_ml", "neptune")

_DISTRIBUTION = {"PIL": "pillow", "yaml": "pyyaml", "comet_ml": "comet-ml"}
"""Where it is not the module's own name with hyphens."""

_PATIENCE = 300
"""Seconds that the imports of all packages may take."""


@dataclass(frozen=True)
class Package:
    """What is known of a package.

    Attributes:
        module: the name by which it is imported.
        version: of the distribution; None if it is not installed.
        error: why it cannot be imported, one line; None if it can, or is not there.
        facts: what else was asked of it.
    """

    module: str
    version: str | None = None
    error: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def works(self) -> bool:
        """Whether it is there and can be imported."""
        return self.version is not None and self.error is None

    @property
    def distribution(self) -> str:
        """The name to install it by."""
        return distribution_of(self.module)


def distribution_of(module: str) -> str:
    """Return the name by which a module is installed.

    Example:
        >>> distribution_of("yaml"), distribution_of("faster_coco_eval")
        ('pyyaml', 'faster-coco-eval')
    """
    return _DISTRIBUTION.get(module, module.replace("_", "-"))


def find_packages(modules: Sequence[str]) -> dict[str, Package]:
    """Import modules in another process, and return what came of each, whatever they do there."""
    results: dict[str, dict[str, Any]] = {}
    while waiting := [module for module in modules if module not in results]:
        begun = None
        for result in _import_elsewhere(waiting):
            if "begins" in result:
                begun = result["begins"]
            else:
                results[result.pop("name")] = result
        lost = waiting[0] if begun is None else begun
        # The process ended, or took too long, at the one that had begun: the next one starts behind it.
        results.setdefault(lost, {"error": "its import ended Python, or did not end"})
    return {module: _package(module, results[module]) for module in modules}


def _package(module: str, result: dict[str, Any]) -> Package:
    if result.pop("missing", False):
        return Package(module)
    distribution = distribution_of(module)
    installed = versions(distribution).get(distribution)
    version = result.pop("version", None) or None
    return Package(module, installed or version or "of unknown version", result.pop("error", None), result)


def _import_elsewhere(modules: Sequence[str]) -> Iterator[dict[str, Any]]:
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    # -P: the folder of the script is no place to import from.
    command = [sys.executable, "-P", str(Path(probe.__file__)), *modules]
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8"}
    try:
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=_PATIENCE, check=False
        )
        printed = done.stdout
    except subprocess.TimeoutExpired as late:
        printed = late.stdout or b""
    for line in printed.decode("utf-8", "replace").splitlines():
        if line.startswith(probe.MARK):
            yield json.loads(line.removeprefix(probe.MARK))


def unmet_requirement(package: Package) -> str | None:
    """Return what this package asks of another one's version, if that is not so; None if it is, or nobody knows."""
    try:
        from packaging.requirements import Requirement

        wanted = map(Requirement, importlib.metadata.requires("odsg-lightning") or ())
        for requirement in wanted:
            if requirement.name.replace("_", "-").lower() == package.distribution:
                met = requirement.specifier.contains(package.version or "", prereleases=True)
                return None if met else str(requirement.specifier)
    except Exception:  # no metadata (a source tree on the path), damaged metadata, no `packaging`
        return None
    return None
