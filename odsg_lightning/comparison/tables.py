"""A comparison as tables: ``comparison.md``, and one for the terminal. Nothing here loads torch."""

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from odsg_lightning.comparison.measures import CONTROLS, GROUPS, HIDING, MEASURES, Measure
from odsg_lightning.comparison.result import CheckpointResult, Comparison
from odsg_lightning.comparison.summary import LEVEL, Cell, Row
from odsg_lightning.names import BOX_PARAMETERS
from odsg_lightning.text import markdown, mean_with_interval, number, plain

LEGEND = (
    f"Mean over objects, with its {100 * LEVEL:.0f} % interval over whole images. Bold is better than every other row, "
    "controls too: the intervals of all paired differences, taken together, lie above 0. ↑ higher is better, ↓ lower. "
    f"The controls {' and '.join(CONTROLS)} know nothing of the detector's weights."
)

_TERMINAL = {
    **{"iof": "IOF", "energy_mask": "energy", "pointing_mask": "point", "odi": "ODI", "accuracy": "VEA"},
    **{"deletion": "del", "insertion": "ins", "box/edge": "edge", "box/position": "pos"},
}
"""What fits into 80 columns, and the titles that do."""


def seconds_title(comparison: Comparison) -> str:
    """Return the title of the column of seconds."""
    return "CPU s/object" if comparison.clock == "processor" else "s/object"


def shown_cell(cell: Cell, digits: int = 2) -> str:
    """Return mean and interval as text.

    Example:
        >>> shown_cell(Cell(0.5, (0.25, 0.75), 9))
        '0.50 [0.25, 0.75]'
    """
    return mean_with_interval(cell.mean, cell.interval, digits)


def digits_of(measure: Measure) -> int:
    """Return how many digits behind the point are shown."""
    return 0 if measure.key == "ties" else 2


def seconds_text(seconds: float | None) -> str:
    """Return seconds with two significant digits, or none behind the point."""
    return number(seconds, 0 if seconds is not None and seconds >= 10 else 2)


def groups_with_values(rows: Sequence[Row]) -> Iterator[tuple[str, list[Measure], list[Row]]]:
    """Yield each group's title, its measures, and the rows that have a value of one of them."""
    for title, measures in GROUPS.items():
        measured = [one for one in measures if any(row.cells[one.key].mean is not None for row in rows)]
        kept = [row for row in rows if any(row.cells[one.key].mean is not None for one in measured)]
        if measured:
            yield title, measured, kept


def notes(comparison: Comparison, result: CheckpointResult) -> list[str]:
    """Return what the tables of a checkpoint leave out, in sentences of plain text."""
    told = []
    if not result.objects:
        told.append(
            f"No object was detected, of {result.n_missed} annotated ones in {len(result.images)} images, so there is "
            f"nothing to explain: no detection of its class with an IoU of {comparison.settings['pair_iou']:g} scores "
            f"above {comparison.settings['score_threshold']:g}."
        )
    told += [f"Left out: {name}. {why}" for name, why in result.left_out.items()]
    without = [name for name in result.shown if not set(BOX_PARAMETERS) & set(result.gives[name])]
    if without and result.objects:
        told.append(f"No maps of the box, so no values of them: {', '.join(without)}.")
    if comparison.settings["steps"] is None:
        told.append(f"No pixels were hidden, so there are no values of {' and '.join(HIDING)}.")
    return told


def markdown_text(comparison: Comparison, summaries: Sequence[Sequence[Row]]) -> str:
    """Return ``comparison.md``, from the :func:`~odsg_lightning.comparison.summary.summary` of each checkpoint."""
    settings = ", ".join(f"{name} {value}" for name, value in comparison.settings.items())
    lines = ["# Explainers compared", "", LEGEND, "", f"Settings: {settings}.", ""]
    for result, rows in zip(comparison.checkpoints, summaries, strict=True):
        images = len({one.image_id for one in result.objects})
        lines += [f"## {_line(result.name)}", ""]
        lines += [
            f"Objects: {len(result.objects)} in {images} images; not detected, so not explained: {result.n_missed}.",
            "",
        ]
        for note in notes(comparison, result):
            lines += [f"- {_line(note)}"]
        lines += [""]
        for title, measures, kept in groups_with_values(rows):
            lines += [f"### {title}", "", *_markdown_table(measures, kept), ""]
        if result.objects:
            lines += ["### Maps and time", "", *_markdown_counts(comparison, rows), ""]
    return "\n".join(lines)


def terminal_table(comparison: Comparison, result: CheckpointResult, rows: Sequence[Row]) -> Table:
    """Return means of some measures, in a table of at most 80 columns; bold is best."""
    title = escape(f"{plain(result.name, 40)}: {len(result.objects)} objects")
    table = Table(title=title, box=SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("explainer", no_wrap=True)
    shown = [measure for measure in MEASURES if measure.key in _TERMINAL]
    for measure in shown:
        table.add_column(_TERMINAL[measure.key] + measure.heading[len(measure.title) :].strip(), justify="right")
    table.add_column("CPU s" if comparison.clock == "processor" else "s", justify="right")
    for row in rows:
        cells = [row.cells[measure.key] for measure in shown]
        means = [f"[bold]{number(cell.mean, 2)}[/bold]" if cell.best else number(cell.mean, 2) for cell in cells]
        table.add_row(escape(row.name), *means, seconds_text(row.seconds))
    return table


def _line(text: str) -> str:
    """Escape a text for Markdown but for its underscores: within a word, as in names, they are none of its markup."""
    return markdown(text, 1000).replace("&#95;", "_")


def _markdown_table(measures: Sequence[Measure], rows: Sequence[Row]) -> Iterator[str]:
    yield "| explainer | " + " | ".join(measure.heading for measure in measures) + " |"
    yield "|---|" + "---|" * len(measures)
    for row in rows:
        cells = []
        for measure in measures:
            cell = row.cells[measure.key]
            text = shown_cell(cell, digits_of(measure))
            cells.append(f"**{text}**" if cell.best else text)
        yield f"| {_line(row.name)} | " + " | ".join(cells) + " |"


def _markdown_counts(comparison: Comparison, rows: Sequence[Row]) -> Iterator[str]:
    yield f"| explainer | objects | maps | undefined | {seconds_title(comparison)} |"
    yield "|---|---|---|---|---|"
    for row in rows:
        seconds = seconds_text(row.seconds)
        yield f"| {_line(row.name)} | {row.objects} | {row.maps} | {row.undefined} | {seconds} |"
