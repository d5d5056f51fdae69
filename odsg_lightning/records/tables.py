"""What a record or an audit set says in one look, as tables for the terminal. Nothing here loads torch."""

from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from odsg_lightning.names import BOX_PARAMETERS, OCCLUSION_NAMES, REGIONS
from odsg_lightning.records.audit_set import AuditSet
from odsg_lightning.text import number, plain


def iof_table(means: Mapping[str, float | None], title: str) -> Table:
    """Return the mean IOF by parameter and region, and to which edge the maps lean.

    Args:
        means: by logged name, such as ``iof/x_min/edge``; None or NaN for a mean of nothing.
        title: of the table; what does not print is replaced.
    """
    regions = (*REGIONS, "object", "near")
    table = Table(title=escape(plain(title)))
    table.add_column("IOF")
    for name in regions:
        table.add_column(name, justify="right")
    for name in ("enrichment", "position"):
        table.add_column(name, justify="right")
    for parameter in BOX_PARAMETERS:
        lean = f"enrichment/{parameter}/edge", f"position/{parameter}"
        names = (*(f"iof/{parameter}/{region}" for region in regions), *lean)
        table.add_row(parameter, *(number(means[name], 2) for name in names))
    of_score = (number(means[f"iof/score/{region}"], 2) for region in regions[len(REGIONS) :])
    table.add_row("score", *[""] * len(REGIONS), *of_score, end_section=True)
    names = (*(f"iof/{region}" for region in regions), "enrichment/edge", "position/mean")
    table.add_row("box mean", *(number(means[name], 2) for name in names), end_section=True)
    return table


def count_rows(means: Mapping[str, float | None]) -> list[tuple[str, str]]:
    """Return sufficiency, necessity, recall, defined maps and match rate as rows of a table.

    Args:
        means: by logged name, as of :func:`odsg_lightning.records.means.audit_means`. Without ``occlusion/...``, where
            nothing was hidden, these rows are left out.
    """
    occlusion = [(name, f"occlusion/{name}") for name in OCCLUSION_NAMES if f"occlusion/{name}" in means]
    undefined = number(means["audit/n_undefined"], 0)
    return [
        *((name, number(means[logged], 2)) for name, logged in occlusion),
        ("recall", f"{number(means['audit/recall'], 2)} of {number(means['audit/n_objects'], 0)} objects"),
        ("defined maps", f"{number(means['audit/defined'], 2)}, {undefined} undefined"),
        ("match rate", number(means["audit/match_rate"], 2)),
    ]


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
