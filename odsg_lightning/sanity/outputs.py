"""A sanity check for people and programs: a table, Markdown, JSON and a figure."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from odsg_lightning.metrics.similarity import SIMILARITIES
from odsg_lightning.names import PARAMETERS
from odsg_lightning.sanity.check import CHANGED, DISTANCE, SanityCheck, Similarity
from odsg_lightning.text import markdown, mean_with_interval, number, plain
from odsg_lightning.viz.cascade import Band, cascade_figure

SCHEMA = "odsg-sanity/1"

TITLES = {
    "spearman": "rank correlation: image",
    "spearman_box": "rank correlation: box",
    "ssim": "SSIM: image",
}


def verdict(check: SanityCheck) -> str:
    """Say whether the maps depend on what the detector learned, in a sentence or two."""
    if not check.stages:
        return "Nothing was detected: there are no maps to compare."
    last, anywhere, in_box = check.stages[-1], check.unchanged("spearman"), check.unchanged("spearman_box")
    if not anywhere and not in_box:
        return f"With the weights lost down to {last}, every map has changed: its rank correlation is below {CHANGED}."
    finding = f"FINDING: with the weights lost down to {last}, the rank correlation is still {CHANGED} or more"
    if in_box:
        return (
            f"{finding} in the box for {', '.join(in_box)}: these maps show the image or the network's geometry, not "
            "what was learned."
        )
    return (
        f"{finding} over the whole image for {', '.join(anywhere)}, and below it in the box for all five. Compare "
        f"{DISTANCE!r}: where around the object the maps are high says little of what was learned, where in it does."
    )


def sanity_table(check: SanityCheck, title: str) -> Table:
    """Return the means for the terminal: a part for each measure, with a row for each stage."""
    table = Table(title=escape(plain(title)))
    for name in ("randomised down to", *PARAMETERS, "undefined"):
        table.add_column(name, justify="left" if name.startswith("randomised") else "right")
    for measure in SIMILARITIES:
        table.add_row(f"[bold]{TITLES[measure]}[/bold]")
        for stage in check.values:
            cells = [check.values[stage][f"{measure}/{parameter}"] for parameter in PARAMETERS]
            means = (number(cell.mean, 2) for cell in cells)
            table.add_row(escape(f"  {plain(stage)}"), *means, _undefined(check, cells), end_section=stage == DISTANCE)
    return table


def sanity_markdown(check: SanityCheck, title: str) -> str:
    """Return the means with their intervals as Markdown, and the verdict."""
    lines = [f"## {markdown(title, 200)}", "", markdown(verdict(check), 600)]
    for measure in SIMILARITIES if check.stages else ():
        lines += ["", f"{TITLES[measure]}, with the trained map: mean [95 % interval over images]", ""]
        lines += [f"| randomised down to | {' | '.join(PARAMETERS)} | undefined |", f"|---|{'--:|' * 6}"]
        for stage, values in check.values.items():
            cells = [values[f"{measure}/{parameter}"] for parameter in PARAMETERS]
            means = " | ".join(mean_with_interval(cell.mean, cell.interval) for cell in cells)
            lines.append(f"| {markdown(stage)} | {means} | {_undefined(check, cells)} |")
    return "\n".join([*lines, ""])


def sanity_json(check: SanityCheck, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return everything as plain data; a value that is not defined is None.

    Args:
        check: the check.
        settings: what it depends on besides the detector.
    """
    values = {stage: {name: vars(one) for name, one in of_stage.items()} for stage, of_stage in check.values.items()}
    unchanged = {measure: check.unchanged(measure) for measure in SIMILARITIES[:2]}
    counts = {"n_images": check.n_images, "n_objects": check.n_objects}
    return {"schema": SCHEMA, "settings": dict(settings), **counts, "unchanged": unchanged, "values": values}


def sanity_figure(check: SanityCheck) -> NDArray[np.uint8]:
    """Return the curves as a picture ``[height, width, 3]``."""
    panels = {
        TITLES[measure]: {
            parameter: [_band(values[f"{measure}/{parameter}"]) for values in check.values.values()]
            for parameter in PARAMETERS
        }
        for measure in SIMILARITIES
    }
    return cascade_figure(list(check.values), panels, CHANGED)


def _undefined(check: SanityCheck, cells: list[Similarity]) -> str:
    return str(sum(check.n_objects - cell.n_objects for cell in cells))


def _band(one: Similarity) -> Band:
    return None if one.mean is None else (one.mean, *(one.interval or (one.mean, one.mean)))
