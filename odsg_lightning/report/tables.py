"""The tables of means: of all objects, and of each category by itself."""

from collections.abc import Sequence
from dataclasses import dataclass

from odsg_lightning.records.means import audit_means
from odsg_lightning.records.record import ObjectRow
from odsg_lightning.report.changes import Better, Change, change_of, share
from odsg_lightning.report.numbers import SUMMARY, Measure, Numbers

CATEGORY_COLUMNS: tuple[tuple[str, str, Better, int], ...] = (
    ("Objects", "audit/n_objects", "neither", 0),
    ("Detected", "detected", "higher", 0),
    ("Recall", "audit/recall", "higher", 3),
    ("Near IOF", "iof/near", "higher", 3),
    ("Object IOF", "iof/object", "higher", 3),
    ("Sufficiency", "occlusion/sufficiency", "higher", 3),
    ("Necessity", "occlusion/necessity", "higher", 3),
)
"""Title, key, which values are good, and digits, of each column."""


@dataclass(frozen=True)
class SummaryRow:
    """One measure in all records.

    Attributes:
        measure: which.
        values: of each record, as text.
        change: from the first record to the last.
    """

    measure: Measure
    values: list[str]
    change: Change


@dataclass(frozen=True)
class Cell:
    """One measure of a category.

    Attributes:
        title: of its column.
        values: in the first record and in the last, as text; of a single record one value.
        change: between the two; None for a single record.
    """

    title: str
    values: list[str]
    change: Change | None


def summary_rows(numbers: Sequence[Numbers]) -> dict[str, list[SummaryRow]]:
    """Return the rows of the summary by group, without what a Trainer might have logged and did not."""
    groups = {}
    for title, measures in SUMMARY.items():
        rows = [_summary_row(measure, numbers) for measure in measures]
        kept = [row for row in rows if row is not None]
        if kept:
            groups[title] = kept
    return groups


def category_rows(numbers: Sequence[Numbers]) -> dict[str, list[Cell]]:
    """Return the cells of each category, categories sorted: the first record's values, the last one's, the change.

    An object belongs to the category that each record names; a record that lacks a category has no values of it.
    """
    shown = [numbers[0], numbers[-1]] if len(numbers) > 1 else [numbers[0]]
    by_category = [_by_category(of_audit) for of_audit in shown]
    names = sorted(set().union(*by_category))
    means = {name: [_category_means(rows.get(name, [])) for rows in by_category] for name in names}
    return {name: [_cell(*column, means[name]) for column in CATEGORY_COLUMNS] for name in names}


def _summary_row(measure: Measure, numbers: Sequence[Numbers]) -> SummaryRow | None:
    values = [of_audit.values_by_key[measure.key] for of_audit in numbers]
    if measure.logged and all(value is None for value in values):
        return None
    change = change_of(values[0], values[-1], measure.better, measure.digits)
    return SummaryRow(measure, [share(value, measure.digits) for value in values], change)


def _by_category(numbers: Numbers) -> dict[str, list[ObjectRow]]:
    rows: dict[str, list[ObjectRow]] = {}
    for row in numbers.record.objects:
        rows.setdefault(row.category, []).append(row)
    return rows


def _category_means(rows: Sequence[ObjectRow]) -> dict[str, float | None]:
    return {**audit_means(rows), "detected": float(sum(not row.missed for row in rows))}


def _cell(title: str, key: str, better: Better, digits: int, means: Sequence[dict[str, float | None]]) -> Cell:
    values = [of_record[key] for of_record in means]
    change = change_of(values[0], values[-1], better, digits) if len(values) > 1 else None
    return Cell(title, [share(value, digits) for value in values], change)
