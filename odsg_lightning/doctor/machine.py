"""The machine: its GPU or why there is none, its threads, its disk. Nothing here loads torch."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from odsg_lightning.doctor.packages import Package
from odsg_lightning.environment import cores

_GIB = 2**30

Status = Literal["ok", "absent", "warning", "broken"]


@dataclass(frozen=True)
class Finding:
    """One thing that works or does not.

    Attributes:
        part: what.
        status: ``"ok"``; ``"absent"``: an optional part that is not installed; ``"warning"``: works, not as it should;
            ``"broken"``.
        words: what was seen.
        cure: what to type or do; empty where nothing is wrong.
    """

    part: str
    status: Status
    words: str
    cure: str = ""


def machine_findings(torch: Package) -> Iterator[Finding]:
    """Yield what is to say of the machine.

    Args:
        torch: the package, with what it says of GPUs and threads.
    """
    yield _gpu(torch)
    yield _threads(torch)
    yield from _shared_memory(Path("/dev/shm"))
    yield _free_space(Path.cwd())
    yield _writable("folder for temporary files", _temporary_folder(), "export TMPDIR=<a folder that you may write to>")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    yield _writable("cache of downloaded weights", cache, "export XDG_CACHE_HOME=<a folder that you may write to>")


def _gpu(torch: Package) -> Finding:
    devices = torch.facts.get("devices", [])
    if devices:
        words = ", ".join(f"{device['name']}, {device['bytes'] / _GIB:.0f} GiB" for device in devices)
        return Finding("GPU", "ok", f"{words}; torch for CUDA {torch.facts['cuda_build']}.")
    if not torch.works:
        return Finding("GPU", "warning", "Cannot be told without torch.")
    driver = shutil.which("nvidia-smi") is not None or Path("/dev/nvidia0").exists()
    if torch.facts.get("cuda_build") is None:
        words = f"None: torch {torch.version} is a build for the CPU."
        if driver:
            cure = "a CUDA build of torch and torchvision: https://pytorch.org/get-started/locally"
            return Finding("GPU", "warning", f"{words} This machine has an NVIDIA GPU.", cure)
        return Finding("GPU", "ok", f"{words} Audits run there, more slowly.")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and not hidden.strip("-1, "):
        return Finding(
            "GPU", "warning", f"None: CUDA_VISIBLE_DEVICES={hidden!r} hides it.", "unset CUDA_VISIBLE_DEVICES"
        )
    if driver:
        cure = "nvidia-smi, and a driver that is new enough"
        return Finding(
            "GPU", "warning", f"There is one, but torch for CUDA {torch.facts['cuda_build']} cannot use it.", cure
        )
    return Finding(
        "GPU", "ok", f"None on this machine (torch for CUDA {torch.facts['cuda_build']}): all runs on the CPU."
    )


def _threads(torch: Package) -> Finding:
    usable = cores()
    asked = os.environ.get("OMP_NUM_THREADS")
    threads = torch.facts.get("threads")
    variable = "not set" if asked is None else asked
    said = f"{usable} CPU cores, OMP_NUM_THREADS {variable}, {threads or '?'} threads of torch"
    if threads is not None and threads > usable:
        return Finding(
            "threads", "warning", f"{said}: more threads than cores slow everything down.", "unset OMP_NUM_THREADS"
        )
    return Finding("threads", "ok", f"{said}.")


def _shared_memory(folder: Path) -> Iterator[Finding]:
    if folder.is_dir():
        size = shutil.disk_usage(folder).total
        if size < _GIB // 4:
            words = f"{size / 2**20:.0f} MiB: workers of a data loader may end with a bus error."
            yield Finding("shared memory", "warning", words, "docker run --shm-size=2g, or num_workers=0")


def _free_space(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    words = f"{free / _GIB:.1f} GiB free in {folder}."
    if free < 2 * _GIB:
        return Finding(
            "disk", "warning", f"{words} Checkpoints and records with maps take hundreds of MiB.", "make room"
        )
    return Finding("disk", "ok", words)


def _temporary_folder() -> Path | None:
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        return None


def _writable(part: str, folder: Path | None, cure: str) -> Finding:
    if folder is None:
        return Finding(part, "broken", "There is none.", cure)
    made = next((parent for parent in (folder, *folder.parents) if parent.exists()), folder)
    if os.access(made, os.W_OK):
        return Finding(part, "ok", f"{folder} can be written.")
    return Finding(part, "warning", f"{folder} cannot be written.", cure)
