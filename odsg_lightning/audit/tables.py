"""What a record or an audit set says in one look, as tables for the terminal. Nothing here loads torch."""

import math
from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from odsg_lightning.audit.audit_set import AuditSet
from odsg_lightning.audit.gate.text import plain
from odsg_lightning.audit.means import audit_means
from odsg_lightning.audit.record import AuditRecord
from odsg_lightning.names import BOX_PARAMETERS, REGIONS


def iof_table(means: Mapping[str, float | None], title: str) -> Table:
    """Return the mean IOF by parameter and region.

    Args:
        means: by logged name, such as ``iof/x_min/edge``; None or NaN for a mean of nothing.
        title: of the table; what does not print is replaced.
    """
    regions = (*REGIONS, "object")
    table = Table(title=escape(plain(title)))
    table.add_column("IOF")
    for name in regions:
        table.add_column(name, justify="right")
    for parameter in BOX_PARAMETERS:
        table.add_row(parameter, *(two_digits(means[f"iof/{parameter}/{region}"]) for region in regions))
    table.add_row("score", *[""] * len(REGIONS), two_digits(means["iof/score/object"]), end_section=True)
    table.add_row("mean of the box", *(two_digits(means[f"iof/{region}"]) for region in regions), end_section=True)
    return table


def counts_table(record: AuditRecord) -> Table:
    """Return coverage, undefined maps and match rate."""
    means = audit_means(record)
    table = Table(show_header=False)
    table.add_row("coverage", f"{two_digits(means['audit/coverage'])} of {len(record.objects)} objects")
    table.add_row("undefined maps", str(sum(len(row.undefined) for row in record.objects)))
    table.add_row("match rate", two_digits(means["audit/match_rate"]))
    return table


def audit_set_table(chosen: AuditSet, objects: Sequence[int]) -> Table:
    """Return the number of images and objects, and of the objects of each category.

    Args:
        chosen: the set.
        objects: number of objects of each of its categories.
    """
    table = Table(show_header=False)
    table.add_row("images", str(len(chosen.images)))
    table.add_row("objects", str(sum(objects)), end_section=True)
    for (_, name), count in zip(chosen.categories, objects, strict=True):
        if count:
            table.add_row(escape(plain(name)), str(count))
    without = sum(count == 0 for count in objects)
    if without:
        table.add_row("classes without an object", str(without))
    return table


def two_digits(value: float | None) -> str:
    """Return the value, or ``-`` for None and NaN."""
    return "-" if value is None or math.isnan(value) else f"{value:.2f}"
