"""The page's figures, each with the numbers in it as a table."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from odsg_lightning.names import BOX_PARAMETERS, IOF_NAMES, REGIONS
from odsg_lightning.report.numbers import DRIFT, Numbers
from odsg_lightning.viz.curves import step_curves
from odsg_lightning.viz.violins import MAX_VIOLINS, iof_violins


@dataclass(frozen=True)
class Panel:
    """One of a figure's small pictures.

    Attributes:
        title: above it.
        svg: the picture, an ``<svg>`` element.
    """

    title: str
    svg: str


@dataclass(frozen=True)
class Distribution:
    """One row of the table below the violins: count, quartiles and median of one name in one record."""

    name: str
    letter: str
    count: int
    quartiles: tuple[float, float, float] | None


@dataclass(frozen=True)
class Curves:
    """What was logged over the steps of a training.

    Attributes:
        panels: the pictures.
        letters: of the records drawn, by step.
        steps: ascending.
        table: for each curve its values, one for each step.
    """

    panels: list[Panel]
    letters: list[str]
    steps: list[int]
    table: dict[str, list[float | None]]


def drawn(count: int) -> list[int]:
    """Return which of ``count`` records get violins: first and last, and the others evenly thinned out."""
    return sorted({round(index) for index in np.linspace(0, count - 1, min(count, MAX_VIOLINS))})


def violins(letters: Sequence[str], numbers: Sequence[Numbers]) -> list[Panel]:
    """Draw the violins of every parameter, for the records given."""
    regions = {parameter: (*REGIONS, "object") for parameter in BOX_PARAMETERS} | {"score": ("object",)}
    panels = []
    for parameter, names in regions.items():
        values = {region: [of_audit.defined(f"{parameter}/{region}") for of_audit in numbers] for region in names}
        panels.append(Panel(parameter, iof_violins(parameter, values, letters)))
    return panels


def distributions(letters: Sequence[str], numbers: Sequence[Numbers]) -> list[Distribution]:
    """Return the numbers behind the violins, of all records."""
    rows = []
    for name in IOF_NAMES:
        for letter, of_audit in zip(letters, numbers, strict=True):
            values = of_audit.defined(name)
            low, median, high = np.percentile(values, [25, 50, 75]).tolist() if len(values) else (0.0, 0.0, 0.0)
            rows.append(Distribution(name, letter, len(values), (low, median, high) if len(values) else None))
    return rows


def curves(letters: Sequence[str], numbers: Sequence[Numbers]) -> Curves | None:
    """Draw IOF, average precision and drift over the training's steps.

    Of records of the same step, the one named last is taken.

    Returns:
        None if fewer than two records say at which step they were made.
    """
    steps = [of_audit.record.provenance["step"] for of_audit in numbers]
    places = {step: index for index, step in enumerate(steps) if step is not None}
    if len(places) < 2:
        return None
    order = [places[step] for step in sorted(places)]
    chosen = [numbers[index] for index in order]
    groups: dict[str, dict[str, list[float | None]]] = {
        "IOF": {
            region: [of_audit.means[f"iof/{region}"] for of_audit in chosen] for region in ("object", "edge", "middle")
        },
        "Average precision": {
            "AP50": [of_audit.average_precision("map_50") for of_audit in chosen],
            "AP": [of_audit.average_precision("map") for of_audit in chosen],
        },
        "Drift": {
            meaning: [of_audit.drift(kind, "pearson") for of_audit in chosen]
            for kind, meaning in zip(DRIFT, ("previous", "reference", "noise"), strict=True)
        },
    }
    panels: list[Panel] = []
    table: dict[str, list[float | None]] = {}
    for title, curves_of in groups.items():
        kept = {label: values for label, values in curves_of.items() if any(value is not None for value in values)}
        if kept:
            panels.append(Panel(title, step_curves(title.split()[-1].lower(), sorted(places), kept)))
            table |= {f"{title}, {label}": values for label, values in kept.items()}
    return Curves(panels, [letters[index] for index in order], sorted(places), table)
