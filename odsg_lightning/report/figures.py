"""The page's figures, each with the numbers in it as a table."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from odsg_lightning.names import BOX_PARAMETERS, IOF_NAMES, REGIONS
from odsg_lightning.report.numbers import Numbers
from odsg_lightning.viz.curves import step_curves
from odsg_lightning.viz.violins import MAX_VIOLINS, iof_violins

_CURVES = (
    (
        "With pixels hidden",
        "higher is better",
        {"sufficiency": "occlusion/sufficiency", "necessity": "occlusion/necessity"},
    ),
    (
        "IOF",
        "near, object, edge: higher is better",
        {region: f"iof/{region}" for region in ("near", "object", "edge", "middle")},
    ),
    ("Found and defined", "higher is better", {"recall": "audit/recall", "defined": "audit/defined"}),
    ("Average precision", "higher is better", {"AP50": "map_50", "AP": "map"}),
    ("Drift", "lower is better", {"previous": "drift", "reference": "drift_ref", "noise": "drift_noise"}),
)
"""Title, which values are good, and the key of each curve."""


@dataclass(frozen=True)
class Panel:
    """One of a figure's small pictures.

    Attributes:
        title: above it.
        svg: the picture, an ``<svg>`` element.
        better: which values are good, in words; empty if the figure's text says so.
    """

    title: str
    svg: str
    better: str = ""


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
    regions = {parameter: (*REGIONS, "object", "near") for parameter in BOX_PARAMETERS} | {"score": ("object", "near")}
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
    """Draw what was measured and logged over the training's steps.

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
    panels: list[Panel] = []
    table: dict[str, list[float | None]] = {}
    for title, better, keys in _CURVES:
        curves_of = {label: [of_audit.values_by_key[key] for of_audit in chosen] for label, key in keys.items()}
        kept = {label: values for label, values in curves_of.items() if any(value is not None for value in values)}
        if kept:
            panels.append(Panel(title, step_curves(title.split()[-1].lower(), sorted(places), kept), better))
            table |= {f"{title}, {label}": values for label, values in kept.items()}
    return Curves(panels, [letters[index] for index in order], sorted(places), table)
