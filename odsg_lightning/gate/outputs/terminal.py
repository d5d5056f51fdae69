"""The table on the terminal: readable at 80 columns, without colour, and whatever a record calls its categories."""

import sys
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from odsg_lightning.gate.config import COLLAPSED
from odsg_lightning.gate.resampling import MIN_IMAGES
from odsg_lightning.gate.result import SHOWN, ChangedObject, CheckResult, GateResult
from odsg_lightning.text import number, plain

_NAME_WIDTH = 21  # of the longest check, occlusion/sufficiency

_STYLES = {"pass": "green", "fail": "bold red", "inconclusive": "yellow", "no data": "bold red"}


def print_result(result: GateResult, strict: bool = False, file: TextIO | None = None) -> None:
    """Print the table, what fell, and the verdict last; ``result.reasons`` are for standard error.

    Args:
        result: to print.
        strict: whether inconclusive fails.
        file: where to; None for standard output.
    """
    file = file or sys.stdout
    console = Console(file=file, highlight=False, emoji=False, markup=False)
    with console.capture() as captured:
        shown = [check for check in result.checks if not is_quiet(check)]
        if shown:
            console.print(_table(shown))
        for line in details(result):
            console.print(Text(line), soft_wrap=True)
        console.print(Text(headline(result, strict), style="bold"), soft_wrap=True)
    encoding = file.encoding or "utf-8"  # a category's letters may be none that the terminal has
    file.write(captured.get().encode(encoding, "backslashreplace").decode(encoding))


def is_quiet(check: CheckResult) -> bool:
    """Whether a check is counted, not shown: of a category, and passed."""
    return check.verdict == "pass" and check.p is not None


def headline(result: GateResult, strict: bool = False) -> str:
    """Return the verdict in one line."""
    by_verdict = {
        verdict: [check.name for check in result.checks if check.verdict == verdict and check.level == "error"]
        for verdict in ("fail", "inconclusive")
    }
    if result.verdict == "regression":
        return f"REGRESSION: {_list(by_verdict['fail'])}."
    if result.verdict == "inconclusive":
        consequence = "which --strict refuses" if strict else "which passes without --strict"
        return f"INCONCLUSIVE: {_list(by_verdict['inconclusive'])}, {consequence}. More audit images decide it."
    if result.verdict == "not comparable":
        return "NOT COMPARABLE, so not passed."
    if result.verdict == "no baseline":
        reached = sum(check.verdict == "pass" for check in result.checks)
        return f"NO BASELINE, nothing compared: {reached} of {len(result.checks)} floors reached."
    return f"PASS: {result.n_objects} objects in {result.n_images} images."


def details(result: GateResult) -> Iterator[str]:
    """Yield everything but the table, the verdict and its reasons as lines of text."""
    few = [check.name for check in result.checks if 0 < check.n_images < MIN_IMAGES and check.name != COLLAPSED]
    if few:
        yield f"Fewer than {MIN_IMAGES} images, so the range of their means stands for the interval: {_list(few)}."
    if result.n_accepted > 1:
        yield f"Compared with {result.n_accepted} accepted trainings: each margin begins at the lowest of their means."
    quiet = sum(is_quiet(check) for check in result.checks)
    if quiet:
        yield f"{quiet} checks of categories passed."
    if result.skipped_checks:
        yield f"{len(result.skipped_checks)} checks of categories left out:"
        yield from (f"  {plain(check.name, 40)}: {check.reason}" for check in result.skipped_checks[:SHOWN])
        yield from _more(len(result.skipped_checks))
    for title, objects in changed_lists(result):
        yield f"{title}:"
        for changed in objects[:SHOWN]:
            values = f"{number(changed.baseline)} -> {number(changed.candidate)}"
            yield f"  {plain(changed.category, 20)}  {values}  {place(changed)}"
            if changed.key in result.strips:
                yield f"    {plain(str(result.strips[changed.key]), 300)}"
        yield from _more(len(objects))
    if (result.worst or result.newly_missed) and not result.strips:
        yield "--strips FOLDER writes their pictures, if both records have maps beside them."
    yield from (f"Warning: {warning}" for warning in result.warnings)


def changed_lists(result: GateResult) -> list[tuple[str, tuple[ChangedObject, ...]]]:
    """Return the lists of objects that are not empty, with their titles."""
    lists = [
        (f"Largest falls of {result.ranked_by}", result.worst),
        (f"Newly missed ({len(result.newly_missed)})", result.newly_missed),
        (f"Newly undefined ({len(result.newly_undefined)})", result.newly_undefined),
    ]
    return [(title, objects) for title, objects in lists if objects]


def place(changed: ChangedObject) -> str:
    """Name an object for people."""
    return f"{plain(changed.file_name, 40)} (image {changed.image_id}, annotation {changed.annotation_id})"


def interval(check: CheckResult) -> str:
    """Return the change with its interval; of a floor, the interval of the mean."""
    if check.threshold is None:
        return "-"
    bounds = f"[{number(check.lower, signed=not check.is_floor)}, {number(check.upper, signed=not check.is_floor)}]"
    return f"mean in {bounds}" if check.is_floor else f"{number(check.change, signed=True)} {bounds}"


def _table(checks: list[CheckResult]) -> Table:
    """Return what decides, then what only warns: a column for the level would be too much for 80 characters."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("check", max_width=_NAME_WIDTH, no_wrap=True, overflow="ellipsis")
    table.add_column("verdict", no_wrap=True)
    table.add_column("base", justify="right")
    table.add_column("cand.", justify="right")
    table.add_column("change [interval]", no_wrap=True)
    table.add_column("limit", justify="right")
    for level in ("error", "warn"):
        of_level = [check for check in checks if check.level == level]
        if level == "warn" and of_level:
            table.add_row("these only warn:")
        for check in of_level:
            table.add_row(*_row(check))
    return table


def _row(check: CheckResult) -> tuple[Text, ...]:
    name = plain(check.name, 60)
    if check.is_floor and len(name) > _NAME_WIDTH:
        name = name.replace(" (floor)", "\n(floor)")
    return (
        Text(name),
        Text(check.verdict.upper(), style=_STYLES[check.verdict] if check.level == "error" else ""),
        Text(number(check.baseline)),
        Text(number(check.candidate)),
        Text(interval(check)),
        Text(number(check.threshold, signed=not check.is_floor)),
    )


def _list(names: list[str]) -> str:
    return ", ".join(plain(name, 40) for name in names[:SHOWN]) + (" and more" if len(names) > SHOWN else "")


def _more(count: int) -> Iterator[str]:
    if count > SHOWN:
        yield f"  and {count - SHOWN} more"
