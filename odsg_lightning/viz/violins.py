"""The distribution of IOF over objects, region by region, one violin for each audit: Figure 4 of the paper."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from odsg_lightning.viz.svg import COLOURS, HATCHES, MARKERS, N_SERIES, panel, series, svg_text

MIN_POINTS = 5
"""Fewer values than this are shown as points: a density of them would be made up."""

MAX_VIOLINS = N_SERIES
"""How many audits stand side by side at most."""

_NARROW, _BROAD, _HEIGHT = 340, 520, 230  # CSS pixels; the broad one where many audits stand side by side
_MANY = 4


def iof_violins(parameter: str, regions: Mapping[str, Sequence[NDArray[np.float64]]], labels: Sequence[str]) -> str:
    """Draw the violins of one parameter: for each region one for each audit, with median and quartiles.

    Audits are told apart by the label below, the hatching, the shape of the median's marker, and colour.

    Args:
        parameter: what the maps explain, such as ``"x_min"``.
        regions: for each region the values of each audit ``[N]``, 0 to 1, without NaN; N may be 0.
        labels: one short label for each audit, such as ``"A"``; shown if there are at least two.

    Returns:
        An ``<svg>`` element; its ids begin with ``violin-<parameter>``.

    Raises:
        ValueError: a region has not one set of values for each label, or there are more than ``MAX_VIOLINS``.
    """
    if not 1 <= len(labels) <= MAX_VIOLINS or any(len(values) != len(labels) for values in regions.values()):
        raise ValueError(
            f"Expected values of 1 to {MAX_VIOLINS} audits, one for each label, but got {len(labels)} labels and "
            f"{ {region: len(values) for region, values in regions.items()} }."
        )
    step = len(labels) + 0.8
    width = _BROAD if len(labels) >= _MANY and len(regions) > 1 else _NARROW
    with panel(width, _HEIGHT, (34, 46, 4, 8)) as (figure, axes):
        axes.set(ylim=(-0.03, 1.03), xlim=(-0.9, max(len(regions) * step - 0.9, 2.5)), yticks=[0, 0.25, 0.5, 0.75, 1])
        axes.set_yticklabels(["0", "", "0.5", "", "1"])
        centres = []
        for number, (region, values) in enumerate(regions.items()):
            places = number * step + np.arange(len(labels))
            centres.append(places.mean())
            for index, (place, of_audit) in enumerate(zip(places, values, strict=True)):
                _violin(axes, place, of_audit, index)
                if len(labels) > 1:
                    axes.annotate(
                        labels[index], (place, 0), (0, -13), ("data", "axes fraction"), "offset points", ha="center"
                    )
            axes.annotate(
                region,
                (centres[-1], 0),
                (0, -32 if len(labels) > 1 else -15),
                ("data", "axes fraction"),
                "offset points",
                ha="center",
                color=COLOURS["muted"],
            )
        axes.set_xticks([])
        medians = "; ".join(
            f"{region} " + ", ".join(_median(label, of_audit) for label, of_audit in zip(labels, values, strict=True))
            for region, values in regions.items()
        )
        return svg_text(figure, f"violin-{parameter}", f"IOF of {parameter}, medians: {medians}.")


def _violin(axes: Axes, place: float, values: NDArray[np.float64], index: int) -> None:
    line, fill = series(index)
    if not len(values):
        axes.text(place, 0.0, "none", ha="center", va="bottom", color=COLOURS["muted"], rotation=90)
        return
    if len(values) < MIN_POINTS:
        axes.scatter(
            np.full(len(values), place), values, s=34, marker=MARKERS[index], facecolor=fill, edgecolor=line, zorder=3
        )
        return
    parts: dict[str, Any] = axes.violinplot([values], [place], widths=0.86, showextrema=False, points=48)
    (body,) = parts["bodies"]
    body.set(facecolor=fill, edgecolor=line, alpha=1, linewidth=1, hatch=HATCHES[index])
    low, median, high = np.percentile(values, [25, 50, 75])
    axes.vlines(place, low, high, color=COLOURS["ink"], linewidth=3)
    axes.scatter(
        [place], [median], s=30, marker=MARKERS[index], facecolor=COLOURS["paper"], edgecolor=COLOURS["ink"], zorder=3
    )


def _median(label: str, values: NDArray[np.float64]) -> str:
    return f"{label} {np.median(values):.2f}" if len(values) else f"{label} none"
