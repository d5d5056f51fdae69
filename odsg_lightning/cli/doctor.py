"""``odsg doctor``."""

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from odsg_lightning.doctor.diagnosis import Diagnosis
    from odsg_lightning.doctor.machine import Finding


def add(subcommands: Any) -> None:
    """Describe the subcommand."""
    parser = subcommands.add_parser(
        "doctor",
        help="what works here, what does not, and what to type about it",
        description="Imports every package that this one can use, in a process of its own, and looks at the machine. "
        "Exit code 0: audits in training, the gate and the report work; 1: they do not.",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON, for a bug report")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from odsg_lightning.doctor.diagnosis import diagnose

    diagnosis = diagnose()
    if options.json:
        print(json.dumps(diagnosis.as_json(), indent=2))
    else:
        _show(diagnosis)
    return 0 if diagnosis.works else 1


def _show(diagnosis: "Diagnosis") -> None:
    from odsg_lightning import __version__

    versions = ", ".join(
        f"{name} {package.version}" for name, package in diagnosis.packages.items() if package.version is not None
    )
    for title, findings in (
        ("What works here", diagnosis.features),
        ("What is wrong with packages", diagnosis.faults),
        ("The machine", diagnosis.machine),
    ):
        if findings:
            _print_table(title, findings, plain=not diagnosis.packages["rich"].works)
    print(f"odsg_lightning {__version__}; {versions}")
    print("All that is needed works." if diagnosis.works else "Audits, gate and report do not work here: see above.")


def _print_table(title: str, findings: "tuple[Finding, ...]", *, plain: bool) -> None:
    from odsg_lightning.text import printable

    rows = [(f.part, f.status, printable(f.words), printable(f.cure)) for f in findings]
    if plain:
        print(f"{title}:")
        for part, status, words, cure in rows:
            print(f"- {part}: {status}. {words}" + (f"\n    cure: {cure}" if cure else ""))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False, expand=True)
    for ratio in (2, None, 5):
        table.add_column(ratio=ratio, no_wrap=ratio is None)
    for part, status, words, cure in rows:
        table.add_row(escape(part), status, escape(words + (f"\n→ {cure}" if cure else "")))
    Console().print(table)
