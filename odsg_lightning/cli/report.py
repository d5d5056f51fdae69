"""``odsg report``."""

import argparse
from pathlib import Path
from typing import Any

from odsg_lightning.errors import UserInputError


def add(subcommands: Any) -> None:
    """Describe the subcommand."""
    parser = subcommands.add_parser(
        "report", help="show audit records as one page: violins, curves, and every object's maps, worst first"
    )
    parser.add_argument(
        "records", nargs="+", type=Path, metavar="RECORD", help="the record to compare with first, the candidate last"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the page (HTML)")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="one for each record (default: the files' names)")
    parser.add_argument(
        "--max-strips", type=int, default=200, metavar="N", help="objects that get pictures, at most (default: 200)"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from odsg_lightning.files import write_text
    from odsg_lightning.report.audits import read_audits
    from odsg_lightning.report.page import build_page

    output: Path = options.output
    if output.is_dir():
        raise UserInputError(f"Expected to write a page, but {output} is a folder. Name a file in it, say report.html.")
    if output.suffix.lower() not in (".html", ".htm"):
        raise UserInputError(f"Expected the page's name to end in .html, but got {output}.")
    write_text(output, build_page(read_audits(options.records, options.names), options.max_strips))
    print(f"Report: {output} ({output.stat().st_size / 2**20:.1f} MiB)")
    return 0
