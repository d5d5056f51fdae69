r"""What the settings of an audit cost, and how far they move what it logs.

    python examples/benchmarks/settings.py             # trains two small detectors first: about 25 minutes
    python examples/benchmarks/settings.py a.ckpt b.ckpt --audit-set audit_set.json

Each detector is audited with the defaults, and with each of some cheaper settings, all in turn in every round. Seconds
are of reading the checkpoint and the images, too. Another seed of the noise shows how far values move by themselves.
GFLOP are the operations of convolutions and matrix products, counted in a further audit.
"""

import argparse
import logging
import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from gate_real import Models
from measuring import OperationCounter, machine
from rich.console import Console
from rich.table import Table

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.checkpoints.audit import audit_checkpoint
from odsg_lightning.demo.recipe import no_foreign_warnings
from odsg_lightning.demo.shortcut_models import STEPS
from odsg_lightning.records.means import audit_means
from odsg_lightning.records.record import AuditRecord

SETTINGS: Sequence[Mapping[str, Any]] = (
    {},
    {"seed": 1},
    {"engine": "autograd"},
    {"n_samples": 10},
    {"n_samples": 5},
    {"tolerance": 0.01},
    {"tolerance": 0.03},
    {"max_objects_per_image": 1},
    {"occlusion": False},
    {"n_samples": 5, "max_objects_per_image": 1, "occlusion": False},
)
VALUES = ("iof/object", "iof/near", "iof/edge", "enrichment/edge")


class Audits:
    """The audits of one detector with one setting: seconds of each round; operations, and what the first one logged."""

    def __init__(self) -> None:
        """Begin without any."""
        self.seconds: list[float] = []
        self.gflop = 0.0
        self.means: Mapping[str, float | None] = {}

    def count(self, checkpoint: Path, audit_set: Path, config: AuditConfig) -> None:
        """Audit once, for everything but the time."""
        with OperationCounter() as counter:
            self.means = audit_means(_audit(checkpoint, audit_set, config).objects)
        self.gflop = counter.read() / 1e9

    def time(self, checkpoint: Path, audit_set: Path, config: AuditConfig) -> None:
        """Audit once more."""
        begun = time.perf_counter()
        _audit(checkpoint, audit_set, config)
        self.seconds.append(time.perf_counter() - begun)


def _audit(checkpoint: Path, audit_set: Path, config: AuditConfig) -> AuditRecord:
    with tempfile.TemporaryDirectory() as folder:
        return audit_checkpoint(checkpoint, audit_set, Path(folder) / "record.json", config, with_maps=False)


def main(args: Sequence[str] | None = None) -> list[list[Audits]]:
    """Measure, print the table, and return the audits by setting and detector."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, nargs="*", help="none: two detectors are trained on shapes")
    parser.add_argument("--audit-set", type=Path, help="of these checkpoints")
    parser.add_argument("--score-threshold", type=float, default=0.5, help="of a detection to be audited")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS, help="of the two trainings")
    parser.add_argument("--train-images", type=int, default=1000, help="likewise")
    parser.add_argument("--val-images", type=int, default=100, help="likewise")
    parser.add_argument("--output", type=Path, default=Path("runs/settings"), help="of what is trained")
    options = parser.parse_args(args)
    if (options.audit_set is None) == bool(options.checkpoints):
        parser.error("Expected checkpoints together with their --audit-set, or neither.")
    torch.set_num_threads(options.threads)
    logging.disable(logging.INFO)  # which engine runs, for each audit
    base = AuditConfig(score_threshold=options.score_threshold)
    with no_foreign_warnings():
        if options.audit_set is None:
            models = Models(options.output, options.steps, options.train_images, options.val_images)
            options.audit_set = models.audit_set
            options.checkpoints = models.checkpoints("clean", 2)
        found = [[Audits() for _ in options.checkpoints] for _ in SETTINGS]
        for round_ in range(1 + options.rounds):
            for row, changed in zip(found, SETTINGS, strict=True):
                for audits, checkpoint in zip(row, options.checkpoints, strict=True):
                    once_more = audits.time if round_ else audits.count
                    once_more(checkpoint, options.audit_set, replace(base, **changed))
    logging.disable(logging.NOTSET)
    _print(found, f"{len(options.checkpoints)} detectors, {options.rounds} rounds; {machine('cpu')}")
    return found


def _print(found: Sequence[Sequence[Audits]], title: str) -> None:
    table = Table(title=title, caption="Values: largest difference of a detector's mean from that of the defaults.")
    for name in ("setting", "seconds", "of the defaults' (range)", "GFLOP", "samples", *VALUES):
        table.add_column(name, justify="left" if name == "setting" else "right")
    defaults = found[0]
    for changed, row in zip(SETTINGS, found, strict=True):
        pairs = list(zip(row, defaults, strict=True))
        shares = [own / full for one, of in pairs for own, full in zip(one.seconds, of.seconds, strict=True)]
        moved = [max(_apart(one.means[name], of.means[name]) for one, of in pairs) for name in VALUES]
        samples = [one.means["audit/samples_per_object"] or math.nan for one in row]
        table.add_row(
            ", ".join(f"{name}={value}" for name, value in changed.items()) or "(defaults)",
            f"{statistics.median(second for one in row for second in one.seconds):.1f}",
            f"{statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})",
            f"{statistics.mean(one.gflop for one in row):.0f}",
            f"{statistics.mean(samples):.1f}",
            *(f"{difference:.3f}" for difference in moved),
        )
    Console(width=150, highlight=False).print(table)


def _apart(one: float | None, other: float | None) -> float:
    return math.nan if one is None or other is None else abs(one - other)


if __name__ == "__main__":
    main()
