"""A comparison as one page that needs no network: ``comparison.html``. Nothing here loads torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from odsg_lightning.comparison.measures import MEASURES, Measure
from odsg_lightning.comparison.result import CheckpointResult, Comparison, Pictures
from odsg_lightning.comparison.summary import Row, values_of
from odsg_lightning.comparison.tables import (
    LEGEND,
    digits_of,
    groups_with_values,
    notes,
    seconds_text,
    seconds_title,
    shown_cell,
)
from odsg_lightning.report.figures import Panel
from odsg_lightning.report.templating import rendered
from odsg_lightning.viz.rows import distribution_rows
from odsg_lightning.viz.violins import MIN_POINTS

MAX_PICTURED = 6
"""Objects in the gallery of a checkpoint."""

_DRAWN = ("iof", "energy_mask", "odi", "accuracy", "deletion", "insertion", "box/edge", "box/position")


@dataclass(frozen=True)
class Table:
    """A group of measures.

    Attributes:
        title: above it.
        measures: its columns.
        rows: name of the explainer, and for each measure the value as text, whether it is the best, and how many
            objects have one.
    """

    title: str
    measures: list[Measure]
    rows: list[tuple[str, list[tuple[str, bool, int]]]]


@dataclass(frozen=True)
class Section:
    """What the page says of a checkpoint.

    Attributes:
        result: of it.
        notes: what is left out, and why.
        tables: by group.
        counts: for each explainer its name, objects, maps, undefined ones and seconds.
        figures: distributions over the objects.
        gallery: objects with pictures.
    """

    result: CheckpointResult
    notes: list[str]
    tables: list[Table]
    counts: list[tuple[str, int, int, int, str]]
    figures: list[Panel]
    gallery: list[Pictures]


def comparison_page(comparison: Comparison, summaries: Sequence[Sequence[Row]]) -> str:
    """Return the page as HTML; the same comparison gives the same text.

    Args:
        comparison: everything.
        summaries: :func:`~odsg_lightning.comparison.summary.summary` of each checkpoint.
    """
    sections = [
        _section(number, comparison, result, rows)
        for number, (result, rows) in enumerate(zip(comparison.checkpoints, summaries, strict=True))
    ]
    content = {
        "sections": sections,
        "legend": LEGEND,
        "meanings": [measure for measure in MEASURES if any(measure in t.measures for s in sections for t in s.tables)],
        "settings": comparison.settings,
        "audit_set": comparison.audit_set,
        "seconds_title": seconds_title(comparison),
        "min_points": MIN_POINTS,
    }
    return rendered("comparison.html", content)


def _section(number: int, comparison: Comparison, result: CheckpointResult, rows: Sequence[Row]) -> Section:
    tables = [
        Table(title, measures, [(row.name, [_shown(row, measure) for measure in measures]) for row in kept])
        for title, measures, kept in groups_with_values(rows)
    ]
    counts = [(row.name, row.objects, row.maps, row.undefined, seconds_text(row.seconds)) for row in rows]
    drawn = [_figure(number, result, measure) for measure in MEASURES if measure.key in _DRAWN]
    gallery = [image.pictures for image in result.images if image.pictures is not None][:MAX_PICTURED]
    return Section(
        result, notes(comparison, result), tables, counts, [one for one in drawn if one is not None], gallery
    )


def _shown(row: Row, measure: Measure) -> tuple[str, bool, int]:
    cell = row.cells[measure.key]
    return shown_cell(cell, digits_of(measure)), cell.best, cell.count


def _figure(number: int, result: CheckpointResult, measure: Measure) -> Panel | None:
    values = values_of(result, measure, result.shown)
    columns = {name: column[np.isfinite(column)] for name, column in zip(result.shown, values.T, strict=True)}
    kept = {name: column for name, column in columns.items() if len(column)}
    if not kept:
        return None
    name = f"rows-{number}-{measure.key.replace('/', '-').replace('_', '-')}"
    better = {"higher": "higher is better", "lower": "lower is better", "neither": ""}[measure.better]
    svg = distribution_rows(name, measure.title, kept)
    return Panel(measure.title, svg, f"{measure.meaning}; {better}".rstrip("; "))
