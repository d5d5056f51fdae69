"""``odsg report``."""

import argparse
from pathlib import Path
from typing import Any

from odsg_lightning.errors import UserInputError


def add(subcommands: Any) -> None:
    """Describe the subcommand."""
    parser = subcommands.add_parser(
        "report", help="show audit records as one page: the gate's verdict, figures, and every object's maps"
    )
    parser.add_argument(
        "records", nargs="+", type=Path, metavar="RECORD", help="the record to compare with first, the candidate last"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the page (HTML)")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="one for each record (default: the files' names)")
    parser.add_argument(
        "--max-strips", type=int, default=200, metavar="N", help="objects that get pictures, at most (default: 200)"
    )
    gate = parser.add_argument_group("the gate's verdict", "if RECORD is an accepted baseline first, a candidate last")
    gate.add_argument("--config", type=Path, metavar="gate.yaml", help="margins, floors and levels, as of odsg gate")
    gate.add_argument("--ignore-seed", action="store_true", help="compare audits under different seeds")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from odsg_lightning.files import write_text
    from odsg_lightning.gate import read_gate_config
    from odsg_lightning.report.audits import read_audits
    from odsg_lightning.report.page import build_page
    from odsg_lightning.report.verdict import can_be_judged

    output: Path = options.output
    if output.is_dir():
        raise UserInputError(f"Expected to write a page, but {output} is a folder. Name a file in it, say report.html.")
    if output.suffix.lower() not in (".html", ".htm"):
        raise UserInputError(f"Expected the page's name to end in .html, but got {output}.")
    config = read_gate_config(options.config) if options.config else None
    audits = read_audits(options.records, options.names)
    if (options.config or options.ignore_seed) and not can_be_judged(audits):
        raise UserInputError(
            "Expected an accepted baseline first and a candidate last, because --config and --ignore-seed are for the "
            f"gate's verdict, but got {', '.join(_role(audit.path, audit.record.is_baseline) for audit in audits)}."
        )
    page = build_page(audits, options.max_strips, gate_config=config, ignore_seed=options.ignore_seed)
    write_text(output, page)
    print(f"Report: {output} ({output.stat().st_size / 2**20:.1f} MiB)")
    return 0


def _role(path: Path, is_baseline: bool) -> str:
    return f"{path} ({'an accepted baseline' if is_baseline else 'not accepted'})"
