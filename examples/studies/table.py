"""What the gate says of honest and of bad detectors, and how well each statistic tells them apart.

    python examples/studies/table.py --half report          # after audits.py

A pair is a baseline and a candidate of one architecture, audited on the same pictures. Intervals are Clopper and
Pearson's, over pairs as if they were independent: pairs share detectors, so read the number of detectors beside them.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from detectors import BAD, HONEST, RECOVERED, TUNED, Trained, named
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest

from odsg_lightning.gate import GateConfig, compare, read_gate_config
from odsg_lightning.records.means import audit_means
from odsg_lightning.records.record import AuditRecord, read_record

STATISTICS = (
    "occlusion/sufficiency", "occlusion/necessity", "iof/near", "iof/object", "maps/pointing_game",
    "maps/relevance_mass", "maps/area_ratio", "audit/defined", "audit/recall", "audit/match_rate",
)  # fmt: skip


@dataclass(frozen=True)
class Audited:
    """One record of the study."""

    detector: Trained
    step: int
    cue: str
    record: AuditRecord


@dataclass(frozen=True)
class Pair:
    """A question for the gate: would the second pass beside the first?"""

    kind: str
    baseline: Audited
    candidate: Audited


def read(folder: Path, data: str, half: str, images: int) -> list[Audited]:
    """Read the records of a half, with the first so many images of each."""
    found = []
    for path in sorted(folder.glob("*.json")):
        name, cue = path.stem.split("--")
        detector, step = named(name)
        if (detector.data, detector.half) == (data, half):
            record = read_record(path)
            kept = sorted({row.image_id for row in record.objects})[:images]
            rows = tuple(row for row in record.objects if row.image_id in kept)
            found.append(Audited(detector, step, cue, replace(record, objects=rows)))
    return found


def pairs(audited: list[Audited]) -> Iterator[Pair]:
    """Return every pair that a team might compare."""
    honest = [one for one in audited if one.detector.group == HONEST]
    for before in honest:
        final = before.step == before.detector.steps
        for after in audited:
            if after.cue != before.cue or after.detector.architecture != before.detector.architecture:
                continue
            group, same = after.detector.group, after.detector == before.detector
            if group == HONEST and same and after.step > before.step:
                yield Pair("later checkpoint", before, after)
            elif group == HONEST and not same and before.cue == "none" and final and after.step == after.detector.steps:
                yield Pair("retrained", before, after)
            elif group == TUNED and final and after.detector.start == before.detector.name:
                yield Pair("fine-tuned", before, after)
            elif group == BAD and final:
                share = "" if after.detector.share == 1 else ", half"
                tuned = ", fine-tuned on it" if after.detector.start else ""
                yield Pair(f"bad: {after.detector.cue}{share}{tuned}", before, after)
            elif group == RECOVERED and final:
                yield Pair("recovered", before, after)


def verdicts(asked: list[Pair], config: GateConfig) -> Table:
    """Return how often the gate says what."""
    table = Table(title="The gate")
    for column in ("candidate", "detectors", "pairs", "refused", "[95 %]", "inconclusive", "passed", "refused by"):
        table.add_column(column, justify="left" if column in ("candidate", "refused by") else "right")
    for kind in dict.fromkeys(pair.kind for pair in asked):
        some = [pair for pair in asked if pair.kind == kind]
        results = [compare(pair.baseline.record, pair.candidate.record, config) for pair in some]
        counts = Counter(result.verdict for result in results)
        refused = counts["regression"] + counts["not comparable"]
        interval = binomtest(refused, len(some)).proportion_ci(method="exact")
        by = Counter(
            check.name
            for result in results
            for check in result.checks
            if (check.level, check.verdict) == ("error", "fail")
        )
        table.add_row(
            kind,
            str(len({pair.candidate.detector.name for pair in some})),
            str(len(some)),
            str(refused),
            f"[{interval.low:.2f}, {interval.high:.2f}]",
            str(counts["inconclusive"]),
            str(counts["pass"]),
            ", ".join(f"{name} {count}" for name, count in by.most_common()),
        )
    return table


def statistics(audited: list[Audited]) -> Table:
    """Return mean and spread of every statistic over honest detectors, and how far the bad ones lie below."""
    table = Table(title="Statistics: honest mean and sd over detectors; of each cue honest minus bad in sd, and AUC")
    cues = list(dict.fromkeys((one.cue, one.detector.share) for one in audited if one.detector.group == BAD))
    for column in ("statistic", "honest", "sd", *(cue if share == 1 else f"{cue}, half" for cue, share in cues)):
        table.add_column(column, justify="left" if column == "statistic" else "right")
    finals = [one for one in audited if one.step == one.detector.steps]
    for name in STATISTICS:
        means = partial(_means, finals, name)
        honest = means(HONEST, "none", 1)
        sd = float(np.std(honest, ddof=1)) if len(honest) > 1 else float("nan")
        cells = [name, f"{np.mean(honest):.3f}" if honest else "", f"{sd:.3f}"]
        for cue, share in cues:
            good, bad = means(HONEST, cue, 1), means(BAD, cue, share)
            if not good or not bad:
                cells.append("")
                continue
            auc = np.mean([(g > b) + (g == b) / 2 for g in good for b in bad])
            cells.append(f"{(np.mean(good) - np.mean(bad)) / sd if sd else float('nan'):+.1f} {auc:.2f}")
        table.add_row(*cells)
    return table


def _means(audited: list[Audited], name: str, group: str, cue: str, share: float) -> list[float]:
    """Return a statistic's mean in each record of a group on some pictures."""
    chosen = (one for one in audited if (one.detector.group, one.cue, one.detector.share) == (group, cue, share))
    values = (audit_means(one.record.objects)[name] for one in chosen)
    return [value for value in values if value is not None]


def main(args: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/study"))
    parser.add_argument("--half", choices=("decide", "report"), default="decide")
    parser.add_argument("--images", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--config", type=Path, help="gate.yaml; the defaults otherwise")
    arguments = parser.parse_args(args)
    config = read_gate_config(arguments.config) if arguments.config else GateConfig()
    console = Console(width=170)
    for data in ("shapes", "photos"):
        for images in arguments.images:
            audited = read(arguments.output / "audits", data, arguments.half, images)
            if not audited:
                continue
            console.rule(f"{data}, half {arguments.half}, {images} images")
            console.print(statistics(audited))
            console.print(verdicts(list(pairs(audited)), config))


if __name__ == "__main__":
    main()
