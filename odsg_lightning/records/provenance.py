"""Where an audit comes from: the checkpoint, the state of the code, and the versions of what computed it."""

import os
import subprocess
from pathlib import Path
from typing import Any

from odsg_lightning.environment import versions
from odsg_lightning.files import sha256_of

_DISTRIBUTIONS = ("torch", "torchvision", "lightning", "detectron2", "numpy", "pillow", "pycocotools")


def provenance(checkpoint: Path | None = None, step: int | None = None) -> dict[str, Any]:
    """Return the entry ``provenance`` of a record. Never raises: what cannot be found out is None.

    Args:
        checkpoint: the audited file; None in training.
        step: of the training.
    """
    commit = _git("rev-parse", "HEAD")
    # Untracked files do not count: the audit's own output is one.
    status = _git("status", "--porcelain", "--untracked-files=no") if commit else None
    return {
        "checkpoint": None if checkpoint is None else checkpoint.name,
        "checkpoint_sha256": None if checkpoint is None else _sha256(checkpoint),
        "step": step,
        "git_commit": commit,
        "git_dirty": None if status is None else bool(status),
        "versions": versions(*_DISTRIBUTIONS),
    }


def _git(*arguments: str) -> str | None:
    """Ask git about the working directory; None where there is no git, no repository or no answer."""
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # never touch the index of a repository that is only looked at
    try:
        answer = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
            timeout=20,
            env=quiet,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()[:64]


def _sha256(path: Path) -> str | None:
    try:
        return sha256_of(path)
    except OSError:
        return None
