"""Everything that was measured as one Markdown page, with its figures beside it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import figures
import numpy as np
import tables
from explaining import Work
from results import Results

from odsg_lightning.files import write_text

_EXAMPLES = 3


def write_report(results: Sequence[Results], work: Work, head: Sequence[str]) -> str:
    """Write ``results.md`` and the figures into the output folder, and return the page.

    Args:
        results: of each detector.
        work: what they are of.
        head: paragraphs on top: what was run.
    """
    empty = [one for one in results if not one.values]
    results = [one for one in results if one.values]
    parts = list(head)
    for one in empty:
        pictures = sum(one.pictures)
        parts.append(
            f"{one.detector} detected none of {one.objects} objects in {pictures} pictures: nothing is measured."
        )
    if results:
        parts += [*_counts(results, work), *_tables(results, work)]
        parts += [f"![{caption}]({name})" for name, caption in _figures(results, work)]
    page = "\n\n".join(parts) + "\n"
    write_text(work.output / "results.md", page)
    return page


def _counts(results: Sequence[Results], work: Work) -> Iterator[str]:
    for one in results:
        each = [int((one.training == index).sum()) for index in range(len(one.trainings))]
        numbers = ", ".join(f"{name} {count}" for name, count in zip(one.trainings, each, strict=True))
        pictures = " / ".join(map(str, one.pictures))
        missed = one.objects - len(one.training)
        yield (
            f"**{one.detector}**: {len(one.training)} objects of {one.objects} were detected, {missed} missed "
            f"({numbers}), on {pictures} of {len(work.pictures.objects)} pictures."
        )
    left_out = ", ".join(f"{count} {reason}" for reason, count in work.pictures.left_out.items() if count)
    yield f"Objects left out beforehand: {left_out or 'none'}. Classes: {', '.join(work.pictures.classes)}."


def _tables(results: Sequence[Results], work: Work) -> Iterator[str]:
    table, verdicts = tables.primary(results)
    yield "### IOF of edge and middle: the paper's claim"
    yield table
    names = ("reproduced", "contradicted", "undecided")
    counts = ", ".join(f"{verdicts.count(name)} {name}" for name in names)
    overall = "reproduced" if verdicts.count("reproduced") == len(verdicts) else "not reproduced as a whole"
    yield f"Of {len(verdicts)} comparisons: {counts}. Overall: **{overall}**."
    table, passed = tables.controls(results)
    yield "### Controls: edge - middle of maps of which the answer is known"
    yield table
    wrong = [name for name, right in passed.items() if not right]
    yield f"{len(passed) - len(wrong)} of {len(passed)} controls came out as they must." + (
        f" Not: {', '.join(wrong)}." if wrong else ""
    )
    sections: list[tuple[str, Callable[[], str]]] = [
        ("Edge - middle by method, passes, blur and threshold", lambda: tables.arms(results)),
        ("Mirrored pictures, and the shift of the network", lambda: tables.mirror(results)),
        ("What else the paper says", lambda: tables.secondary(results)),
        ("C4: which maps are clearer", lambda: tables.clarity(results)),
        (
            "Edge - middle by training, class and size",
            lambda: tables.strata(results, work.pictures.coco.category_names),
        ),
    ]
    for title, make in sections:
        yield f"### {title}"
        yield make()
    yield "`+` reproduced, `-` contradicted, `?` undecided, for x_min, y_min, x_max, y_max."


def _figures(results: Sequence[Results], work: Work) -> Iterator[tuple[str, str]]:
    folder = work.output
    figures.violins(results, folder / "figure_4.png")
    kept = list(_kept(results, work))
    twins = [(title, content) for title, content in kept if figures.has_twins(content)][:_EXAMPLES]
    if twins:
        figures.one_map_per_object(twins, folder / "figure_1.png")
        yield "figure_1.png", "Figure 1: one map per object"
    whole = [(title, content, 0) for title, content in kept if f"maps/{figures.LAST_ARM}" in content]
    some = [
        next(one for one in whole if one[0].startswith(result.detector))
        for result in results
        if any(one[0].startswith(result.detector) for one in whole)
    ]
    if some:
        figures.maps_by_arm(some, folder / "figure_2.png")
        yield "figure_2.png", "Figure 2: the five maps of an object by both methods, in one pass and in 20"
        figures.sections(some, folder / "figure_3.png")
        yield "figure_3.png", "Figure 3: the thirds of an object, and the foreground of each map"
    yield "figure_4.png", "Figure 4: IOF over objects by parameter and region"


def _kept(results: Sequence[Results], work: Work) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the maps that are there of pictures on which anything was detected, with a title."""
    for result in results:
        for training in result.trainings[:1]:
            for path in sorted((work.output / "maps" / training).glob("*.npz"))[:60]:
                with np.load(path) as file:
                    content = dict(file)
                if len(content["detected"]):
                    yield f"{result.detector}, picture {path.stem}", content
