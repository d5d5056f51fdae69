"""A detector that is right for the wrong reason, and the gate that refuses it.

Two detectors learn the same shapes. One learns from images with annotation frames burned in, around every object; the
other from images with as many frames, but place and colour tell nothing. The team's validation images have the frames
around the objects, too, as they come from the same tool: so average precision prefers the detector that reads them.
Hiding pixels tells the two apart: one stands on the objects, the other stands without them.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from odsg_lightning.demo.recipe import no_foreign_warnings
from odsg_lightning.demo.shortcut_models import STEPS, ap50, make_shortcut_data, train
from odsg_lightning.files import make_folder
from odsg_lightning.names import OCCLUSION_NAMES
from odsg_lightning.records.baseline import accept_baseline
from odsg_lightning.records.means import audit_means
from odsg_lightning.records.record import AuditRecord, read_record
from odsg_lightning.text import number

Command = Callable[[Sequence[str]], int]
"""Runs the arguments behind ``odsg`` and returns the exit code."""

_AUDIT_IMAGES = 24
_REASON = "Stands on the shapes, and falls without them."
_REFUSED = 1  # the gate's exit code
_FOUND = 0.5  # of its score an object must keep to count as found again
_EVIDENCE = {
    **{f"occlusion/{name}": name for name in OCCLUSION_NAMES},
    "iof/near": "iof\nnear",  # two lines: the table fits into 80 columns
    "iof/object": "iof\nobject",
}


def run_shortcut(odsg: Command, output: Path = Path("runs/demo-shortcut"), seed: int = 0, steps: int = STEPS) -> int:
    """Train both detectors, audit them, and let the gate compare them.

    Writes below ``output``: the data (a later run uses it again and writes the rest again), both checkpoints, the audit
    set, both audits, the baseline, what the gate says (``gate.json``, ``strips/``) and ``report.html``.

    Args:
        odsg: runs ``odsg``; its commands are printed before they run, as a person would type them.
        output: folder; made if missing.
        seed: of the data, the weights and the training.
        steps: of each training.

    Returns:
        0 if AP50 preferred the detector with the shortcut and the gate refused it, otherwise 1.
    """
    console = Console()
    average_precision = _train_both(console, output, seed, steps)
    console.print(_average_precision_table(average_precision))
    with no_foreign_warnings():
        verdict = _audit_and_gate(console, odsg, output, average_precision)
    records = {kind: read_record(_audit_path(output, kind)) for kind in average_precision}
    console.rule()
    console.print(_evidence_table(average_precision, records))
    console.print(_in_words(records), highlight=False)
    return _moral(console, average_precision, verdict)


def _train_both(console: Console, output: Path, seed: int, steps: int) -> dict[str, tuple[float, float]]:
    """Train both, and return the AP50 of each on validation images with frames at the objects, and without frames."""
    data = make_shortcut_data(output / "data", seed)
    average_precision = {}
    for kind in ("clean", "shortcut"):
        console.rule(f"Training the {kind} detector: {steps} steps")
        module = train(kind, data, output / f"{kind}.ckpt", seed, steps)
        average_precision[kind] = ap50(module, data.at_boxes), ap50(module, data.without)
    return average_precision


def _audit_and_gate(
    console: Console, odsg: Command, output: Path, average_precision: dict[str, tuple[float, float]]
) -> int:
    """Do what a team does, and return the gate's exit code."""
    annotations, images = output / "data/at_boxes/annotations/val.json", output / "data/at_boxes/val"
    audit_set, baseline = output / "audit_set.json", output / "baseline.json"
    clean, shortcut = _audit_path(output, "clean"), _audit_path(output, "shortcut")
    make_folder(clean.parent)
    for earlier in (audit_set, baseline):
        earlier.unlink(missing_ok=True)

    def show(*words: str | Path) -> list[str]:
        arguments = [str(word) for word in words]
        console.rule()
        console.print(f"$ odsg {shlex.join(arguments)}", soft_wrap=True, highlight=False, markup=False, style="bold")
        return arguments

    def run(*words: str | Path, expected: Sequence[int] = (0,)) -> int:
        code = odsg(show(*words))
        if code not in expected:
            raise RuntimeError(f"odsg {words[0]} ended with exit code {code}.")
        return code

    chosen = ("--annotations", annotations, "--images", images, "--count", str(_AUDIT_IMAGES), "--min-size", "128")
    run("audit-set", *chosen, "-o", audit_set)
    measured = {kind: ("--metric", f"val/map_50={values[0]:.3f}") for kind, values in average_precision.items()}
    run("audit", output / "clean.ckpt", "--audit-set", audit_set, *measured["clean"], "-o", clean)
    show("baseline", "accept", clean, "-o", baseline, "--reason", _REASON)
    accept_baseline(clean, baseline, _REASON)  # the command itself refuses to do it in CI, where this may run
    console.print(f"Accepted {clean} as {baseline}.", soft_wrap=True, highlight=False, markup=False)
    run("audit", output / "shortcut.ckpt", "--audit-set", audit_set, *measured["shortcut"], "-o", shortcut)
    results = ("--json", output / "gate.json", "--strips", output / "strips")
    verdict = run("gate", baseline, shortcut, *results, expected=range(4))
    run("report", baseline, shortcut, "-o", output / "report.html")
    return verdict


def _audit_path(output: Path, kind: str) -> Path:
    return output / "audits" / f"{kind}.json"


def _average_precision_table(average_precision: dict[str, tuple[float, float]]) -> Table:
    table = Table(title="AP50 on 100 validation images")
    table.add_column("detector")
    table.add_column("frames at the objects, as labelled", justify="right")
    table.add_column("no frames", justify="right")
    for kind, values in average_precision.items():
        table.add_row(kind, *(f"{value:.3f}" for value in values))
    return table


def _evidence_table(average_precision: Mapping[str, tuple[float, float]], records: Mapping[str, AuditRecord]) -> Table:
    table = Table(title="How well, and for which reasons")
    table.add_column("detector")
    for column in ("AP50\nframes", "AP50\nno frames", *_EVIDENCE.values()):
        table.add_column(column, justify="right")
    for kind, record in records.items():
        means = audit_means(record.objects)
        precision = [f"{value:.2f}" for value in average_precision[kind]]
        table.add_row(kind, *precision, *(number(means[name], 2) for name in _EVIDENCE))
    return table


def _in_words(records: Mapping[str, AuditRecord]) -> str:
    """Say of how many objects each detector keeps half of its score at least."""
    alone = {kind: _count(record, "sufficiency", lambda value: value >= _FOUND) for kind, record in records.items()}
    hidden = {kind: _count(record, "necessity", lambda value: 1 - value >= _FOUND) for kind, record in records.items()}
    return (
        f"With all but the object hidden, the shortcut detector finds {alone['shortcut']}, the clean one "
        f"{alone['clean']}; with the object hidden, the shortcut detector still finds {hidden['shortcut']}, the clean "
        f"one {hidden['clean']}."
    )


def _count(record: AuditRecord, name: str, counts: Callable[[float], bool]) -> str:
    values = [value for row in record.objects if (value := row.occlusion.get(name)) is not None]
    return f"{sum(map(counts, values))} of {len(values)} objects"


def _moral(console: Console, average_precision: dict[str, tuple[float, float]], verdict: int) -> int:
    """Say what happened, and return the demonstration's exit code."""
    (clean, _), (shortcut, _) = average_precision["clean"], average_precision["shortcut"]
    preferred, refused = shortcut > clean, verdict == _REFUSED
    console.rule()
    console.print(
        f"AP50 {'prefers' if preferred else 'does not prefer'} the detector with the shortcut ({shortcut:.3f} against "
        f"{clean:.3f}). The gate {'refuses' if refused else 'does not refuse'} it (exit code {verdict}).",
        style="bold green" if preferred and refused else "bold red",
        highlight=False,
    )
    return 0 if preferred and refused else 1
