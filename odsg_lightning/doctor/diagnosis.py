"""From what is installed to what works here, with a cure for each thing that does not."""

import platform
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from odsg_lightning import __version__
from odsg_lightning.doctor.machine import Finding, machine_findings
from odsg_lightning.doctor.packages import LOGGERS, OPTIONAL, REQUIRED, Package, find_packages, unmet_requirement
from odsg_lightning.environment import detectron2_build

_INSTALL = "python -m pip install"


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was found.

    Attributes:
        packages: by module.
        machine: GPU, memory, threads, disk.
        features: what works here and what not.
        faults: packages that are broken, too old, or do not fit together.
    """

    packages: dict[str, Package]
    machine: tuple[Finding, ...]
    features: tuple[Finding, ...]
    faults: tuple[Finding, ...]

    @property
    def works(self) -> bool:
        """Whether the main job does: fine-tuning with audits, and the gate."""
        return self.features[0].status == "ok"

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values, for a bug report."""
        listed = {name: [asdict(finding) for finding in getattr(self, name)] for name in _SECTIONS}
        packages = {name: {"version": p.version, "error": p.error, **p.facts} for name, p in self.packages.items()}
        system = {"odsg_lightning": __version__, "python": platform.python_version(), "platform": platform.platform()}
        return {**system, "works": self.works, "packages": packages, "detectron2": detectron2_build(), **listed}


_SECTIONS = ("features", "faults", "machine")


def diagnose() -> Diagnosis:
    """Look at the packages and the machine; takes as long as importing all of them once.

    Never raises for a package that is missing, broken, or ends Python when it is imported.
    """
    packages = find_packages((*REQUIRED, *OPTIONAL, *LOGGERS))
    machine = tuple(machine_findings(packages["torch"]))
    return Diagnosis(packages, machine, tuple(_features(packages)), tuple(_faults(packages)))


# What works -----------------------------------------------------------------------------------------------------------


def _features(packages: dict[str, Package]) -> Iterator[Finding]:
    lacking = [name for name in REQUIRED if not packages[name].works]
    if lacking:
        said = ", ".join(f"{name} ({'broken' if packages[name].error else 'not installed'})" for name in lacking)
        cures = [_cure(packages[name], packages) for name in lacking]
        yield Finding("audits in training, gate, report", "broken", f"Needs {said}.", "; ".join(dict.fromkeys(cures)))
    else:
        yield Finding("audits in training, gate, report", "ok", f"Lightning {packages['lightning'].version}.")
    build = f"{detectron2_build()}; RetinaNet and Faster R-CNN need none of these"
    yield _feature("fine-tuning and auditing Detectron2, with exact fast engines", "detectron2", packages, build)
    for part, module in (
        ("auditing torchvision's detectors", "torchvision"),
        ("auditing transformers' detectors", "transformers"),
        ("auditing RF-DETR", "rfdetr"),
        ("audits under pytorch_lightning's Trainer", "pytorch_lightning"),
        ("mAP in C++", "faster_coco_eval"),
        ("odsg convert (VOC, YOLO)", "globox"),
    ):
        yield _feature(part, module, packages)
    there = [f"{name} {packages[name].version}" for name in ("tensorboard", *LOGGERS) if packages[name].works]
    words = f"{', '.join(there)}; CSV." if there else "CSV alone."
    broken = [packages[name] for name in LOGGERS if packages[name].error]
    cure = "; ".join(_cure(package, packages) for package in broken)
    yield Finding("loggers", "warning" if broken or not there else "ok", words, cure)


def _feature(part: str, module: str, packages: dict[str, Package], words: str | None = None) -> Finding:
    package = packages[module]
    if package.error:
        return Finding(part, "broken", f"{module} {package.version}: {package.error}", _cure(package, packages))
    if package.version is None:
        return Finding(part, "absent", f"{module} is not installed.", _cure(package, packages))
    return Finding(part, "ok", f"{words or f'{module} {package.version}'}.")


# What is wrong --------------------------------------------------------------------------------------------------------


def _faults(packages: dict[str, Package]) -> Iterator[Finding]:
    for package in packages.values():
        if package.error:
            yield Finding(package.module, "broken", f"{package.version}: {package.error}", _cure(package, packages))
            continue
        wanted = unmet_requirement(package) if package.version else None
        if wanted:
            cure = f'{_INSTALL} "{package.distribution}{wanted}"'
            yield Finding(package.module, "warning", f"{package.version}, but this package asks for {wanted}.", cure)
    mismatch = _mismatch(packages)
    if mismatch and not packages["torchvision"].error:
        yield Finding("torch and torchvision", "warning", mismatch, _cure(packages["torchvision"], packages))


def _mismatch(packages: dict[str, Package]) -> str | None:
    """Return why torch and torchvision are no pair: each torch 2.N is built with torchvision 0.(N + 15)."""
    torch, vision = (packages[name].version for name in ("torch", "torchvision"))
    wanted = paired_torchvision(torch)
    if torch is None or vision is None or wanted is None:
        return None
    if not vision.startswith(f"{wanted}."):
        return f"torch {torch} belongs to torchvision {wanted}, but {vision} is installed."
    builds = torch.partition("+")[2], vision.partition("+")[2]
    if all(builds) and builds[0] != builds[1]:
        return f"torch {torch} and torchvision {vision} are of different builds."
    return None


def paired_torchvision(torch: str | None) -> str | None:
    """Return the minor version of torchvision that is built with a version of torch; None if nobody knows.

    Example:
        >>> paired_torchvision("2.4.1+cpu")
        '0.19'
    """
    found = re.match(r"2\.(\d+)\.", torch or "")
    return f"0.{int(found[1]) + 15}" if found else None


def _cure(package: Package, packages: dict[str, Package]) -> str:
    """Return what to type about a package that is missing or broken."""
    if package.module == "detectron2":
        return "make setup, or README, Installing Detectron2"
    again = "--force-reinstall --no-deps " if package.error else ""
    if package.module == "torchvision":
        wanted = paired_torchvision(packages["torch"].version)
        return f'{_INSTALL} {again}"torchvision=={wanted}.*"' if wanted else f"{_INSTALL} {again}torchvision"
    if package.module == "globox":
        return f"{_INSTALL} {again}'odsg-lightning[convert]'" if not again else f"{_INSTALL} {again}globox"
    return f"{_INSTALL} {again}{package.distribution}"
