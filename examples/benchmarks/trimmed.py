r"""How far trimmed windows move the values of an audit, and what `odsg gate` says of them.

    python examples/benchmarks/trimmed.py              # trains four small detectors first: about 25 minutes
    python examples/benchmarks/trimmed.py --audit-set audit_set.json --honest a.ckpt b.ckpt --shortcut c.ckpt

Each detector is audited with exact windows and with trimmed ones, on the same noise. A table says how far IOF, maps and
foregrounds of its objects differ, and what the audit itself estimated of that. Then every detector is compared with
every honest one, as `odsg gate` does it: exact audits on both sides, and trimmed ones.
"""

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import torch
from gate_real import Models
from measuring import machine
from rich.console import Console
from rich.table import Table

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.isolation import isolated
from odsg_lightning.audit.loop import audit
from odsg_lightning.audit.measure import ExplainedObject, fingerprint, object_row
from odsg_lightning.checkpoints.opened import classes_of, load_any
from odsg_lightning.data.audit_set_files import load_sample, unchanged_dataset
from odsg_lightning.demo.recipe import no_foreign_warnings
from odsg_lightning.demo.shortcut_models import STEPS
from odsg_lightning.detectors.resolve import resolve_adapter
from odsg_lightning.gate import compare
from odsg_lightning.records.audit_set import read_audit_set
from odsg_lightning.records.means import trim_extremes
from odsg_lightning.records.provenance import provenance
from odsg_lightning.records.record import AuditRecord, ObjectRow
from odsg_lightning.saliency.early_stop import correlation_distance
from odsg_lightning.text import number


@dataclass
class Trimmed:
    """One detector's audits, the trimmed against the exact one.

    Attributes:
        record: by share, 0 for the exact one.
        values: by share, of each object: differences of IOF (largest, mean), least IoU of a foreground, least
            correlation of a map, largest relative difference of a map (of sums of magnitudes), and its estimate.
        estimated: by share, :func:`odsg_lightning.records.means.trim_extremes`.
    """

    record: dict[float, AuditRecord] = field(default_factory=dict)
    values: dict[float, list[tuple[float, ...]]] = field(default_factory=dict)
    estimated: dict[float, Mapping[str, float | None]] = field(default_factory=dict)


def main(args: Sequence[str] | None = None) -> dict[str, Trimmed]:
    """Print the tables, and return what they are of."""
    options = _parse(args)
    torch.set_num_threads(options.threads)
    with no_foreign_warnings():
        if options.audit_set is None:
            models = Models(options.output, options.steps, options.train_images, options.val_images)
            options.audit_set = models.audit_set
            options.honest = models.checkpoints("clean", 2)
            options.shortcut = models.checkpoints("shortcut", 2)
        config = AuditConfig(
            n_samples=options.n_samples, precision=options.precision, max_objects_per_image=options.max_objects
        )
        found = {}
        for checkpoint in (*options.honest, *options.shortcut):
            found[checkpoint.stem] = _audited(checkpoint, options, config)
            print(f"{checkpoint.stem}: audited", flush=True)
    _print(found, options)
    return found


def _audited(checkpoint: Path, options: argparse.Namespace, config: AuditConfig) -> Trimmed:
    """Audit a detector exactly and with each share."""
    chosen = read_audit_set(options.audit_set)
    coco = unchanged_dataset(chosen)
    coco = replace(coco, images=coco.images[: options.images])
    loaded = load_any(checkpoint, None, None, None, len(chosen.categories), trust=False)
    classes = torch.tensor(classes_of(loaded, chosen, coco, checkpoint))
    samples = [load_sample(chosen, coco, image) for image in coco.images]
    samples = [replace(sample, labels=classes[sample.labels]) for sample in samples]
    result, exact, origin = Trimmed(), {}, provenance(checkpoint)
    with isolated(loaded.module):
        detector = resolve_adapter(loaded.module)
        for share in (0.0, *options.trim):
            # What hiding pixels says does not depend on maps: it is asked once, and goes into the other records.
            of_share = replace(config, trim=share)
            rows: list[ObjectRow] = []
            result.values[share] = []
            for item in audit(detector, samples, replace(of_share, occlusion=not share)):
                row = object_row(item)
                if item.explained is not None and not share:
                    exact[item.key] = row, item.explained
                elif item.explained is not None:
                    before, reference = exact[item.key]
                    row = replace(row, occlusion=before.occlusion, detected_again=before.detected_again)
                    result.values[share].append(_differences(reference, item.explained))
                rows.append(row)
            told = fingerprint(chosen.sha256, of_share, chosen.masks)
            result.record[share] = AuditRecord(told, origin, tuple(sorted(rows, key=lambda row: row.key)))
            result.estimated[share] = trim_extremes(rows)
    return result


def _differences(exact: ExplainedObject, trimmed: ExplainedObject) -> tuple[float, ...]:
    """Return what :class:`Trimmed` says of an object."""
    iof = (exact.iof - trimmed.iof).abs()
    maps, others = (one.saliency.maps.flatten(1) for one in (exact, trimmed))
    defined = maps.isfinite().all(dim=1)
    if not bool((others.isfinite().all(dim=1) == defined).all()):
        raise RuntimeError("Expected trimmed maps to be defined where exact ones are.")
    if not defined.any():
        return (math.nan,) * 6
    maps, others = maps[defined], others[defined]
    both, either = ((exact.foreground & trimmed.foreground), (exact.foreground | trimmed.foreground))
    overlap = both.sum((1, 2)) / either.sum((1, 2))
    apart = (maps - others).abs().sum(1) / maps.sum(1)
    correlation = 1 - correlation_distance(maps[:, None], others[:, None])
    parts = (iof.nan_to_num().max(), iof.nanmean(), overlap[defined].min(), correlation.min(), apart.max())
    return (*map(float, parts), trimmed.saliency.dropped)


def _print(found: Mapping[str, Trimmed], options: argparse.Namespace) -> None:
    console = Console(width=150, highlight=False)
    table = Table(title=f"{options.n_samples} noise samples, precision {options.precision}; {machine('cpu')}")
    table.add_column("detector", no_wrap=True)
    for name in (
        "trim",
        "objects",
        "IOF max",
        "mean",
        "IoU min",
        "correlation",
        "left out",
        "estimate",
        "held",
        "checked",
    ):
        table.add_column(name, justify="right")
    for (name, of), share in product(found.items(), options.trim):
        values = [one for one in of.values[share] if not math.isnan(one[0])]
        if not values:
            table.add_row(name, f"{share:g}", "0")
            continue
        iof, mean, overlap, correlation, apart, dropped = zip(*values, strict=True)
        held = sum(one <= other for one, other in zip(apart, dropped, strict=True)) / len(values)
        table.add_row(
            name, f"{share:g}", str(len(values)), f"{max(iof):.4f}", f"{sum(mean) / len(mean):.5f}",
            f"{min(overlap):.4f}", f"{min(correlation):.5f}", f"{max(apart):.4f}", f"{max(dropped):.4f}", f"{held:.0%}",
            number(of.estimated[share]["audit/trim_iof"], 4),
        )  # fmt: skip
    console.print(table)
    console.print(
        "IOF: largest and mean difference of the 22 values of an object. IoU: of a foreground, the least. Correlation: "
        "of a map, the lowest. Left out: of a map, relative, of sums of magnitudes, the most. Estimate: what the "
        "engine says of it. Held: share of the objects of which no more was left out. Checked: IOF, of the objects "
        "that audits check by themselves.",
        markup=False,
    )
    for share in options.trim:
        verdicts = list(_verdicts(found, options, share))
        same = sum(exact == trimmed for _, exact, trimmed in verdicts)
        console.print(
            f"trim={share:g}: {same} of {len(verdicts)} comparisons have the verdicts of exact audits, of every check"
        )
        for pair, exact, trimmed in verdicts:
            differing = [name for name in exact if exact[name] != trimmed[name]]
            changes = "; ".join(f"{name}: {exact[name]} -> {trimmed[name]}" for name in differing)
            console.print(f"  {pair}: {exact['gate']}{f'  ({changes})' if changes else ''}", markup=False)


def _verdicts(
    found: Mapping[str, Trimmed], options: argparse.Namespace, share: float
) -> Iterator[tuple[str, dict[str, str], dict[str, str]]]:
    """Yield each pair that is compared, with the verdict of each check of exact and of trimmed audits."""
    honest, others = ([path.stem for path in paths] for paths in (options.honest, options.shortcut))
    for baseline, candidate in product(honest, [*honest, *others]):
        if baseline != candidate:
            sides = []
            for one in (0.0, share):
                judged = compare(found[baseline].record[one], found[candidate].record[one])
                sides.append({"gate": judged.verdict, **{check.name: check.verdict for check in judged.checks}})
            yield f"{baseline} -> {candidate}", *sides


def _parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--audit-set", type=Path, help="of `odsg audit-set`, for checkpoints that there are already")
    parser.add_argument("--honest", type=Path, nargs="+", default=[], help="checkpoints: baselines and candidates")
    parser.add_argument("--shortcut", type=Path, nargs="*", default=[], help="checkpoints: candidates")
    parser.add_argument("--trim", type=float, nargs="+", default=[0.001], help="shares")
    parser.add_argument("--precision", choices=["full", "bf16"], default="full")
    parser.add_argument("--images", type=int, help="the first so many of the audit set")
    parser.add_argument("--max-objects", type=int, default=3, help="of an image")
    parser.add_argument("--n-samples", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    own = parser.add_argument_group("without --audit-set")
    own.add_argument("--steps", type=int, default=STEPS, help="of each training")
    own.add_argument("--train-images", type=int, default=1000)
    own.add_argument("--val-images", type=int, default=100)
    own.add_argument("--output", type=Path, default=Path("runs/trimmed"), help="folder for data and checkpoints")
    options = parser.parse_args(args)
    if (options.audit_set is None) == bool(options.honest):
        parser.error("expected --audit-set and --honest together")
    return options


if __name__ == "__main__":
    main()
