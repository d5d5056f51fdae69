"""The distribution of IOF over objects, region by region, one violin for each audit: Figure 4 of the paper."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from odsg_lightning.viz.svg import COLOURS, HATCHES, MARKERS, N_SERIES, panel, series, svg_text

MIN_POINTS = 20
"""Fewer values than this are shown as points: a density of them would be made up."""

MAX_VIOLINS = N_SERIES
"""How many audits stand side by side at most."""

_WIDTH, _HEIGHT = 340, 246  # CSS pixels; wider where so many violins stand side by side
_PLACE = 20  # CSS pixels for a violin and its number of objects, at least
_MARGINS = (34, 62, 4, 8)
_DOT = 5.0  # diameter of a point in CSS pixels


def iof_violins(parameter: str, regions: Mapping[str, Sequence[NDArray[np.float64]]], labels: Sequence[str]) -> str:
    """Draw the violins of one parameter: for each region one for each audit, with median, quartiles and number.

    Audits are told apart by the label below, the hatching, the shape of the markers, and colour. Fewer than
    ``MIN_POINTS`` values are points beside one another, with a line at their median.

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
    left, right = -0.9, max(len(regions) * step - 0.9, 2.5)
    width = round(max(_WIDTH, _MARGINS[0] + _MARGINS[2] + _PLACE * (right - left)))
    scale = ((width - _MARGINS[0] - _MARGINS[2]) / (right - left), (_HEIGHT - _MARGINS[1] - _MARGINS[3]) / 1.06)
    lines = dict(zip(("label", "n", "region"), (-13, -29, -46) if len(labels) > 1 else (0, -15, -33), strict=True))
    with panel(width, _HEIGHT, _MARGINS) as (figure, axes):
        axes.set(ylim=(-0.03, 1.03), xlim=(left, right), yticks=[0, 0.25, 0.5, 0.75, 1], xticks=[])
        axes.set_yticklabels(["0", "", "0.5", "", "1"])
        _write(axes, left, lines["n"], "n ", size=11, ha="right", color=COLOURS["muted"])
        for number, (region, values) in enumerate(regions.items()):
            places = number * step + np.arange(len(labels))
            for index, (place, of_audit) in enumerate(zip(places, values, strict=True)):
                _violin(axes, place, of_audit, index, scale)
                _write(axes, place, lines["n"], _short(len(of_audit)), size=11, color=COLOURS["muted"])
                if len(labels) > 1:
                    _write(axes, place, lines["label"], labels[index])
            _write(axes, places.mean(), lines["region"], region, color=COLOURS["muted"])
        medians = "; ".join(
            f"{region} " + ", ".join(_median(label, of_audit) for label, of_audit in zip(labels, values, strict=True))
            for region, values in regions.items()
        )
        return svg_text(figure, f"violin-{parameter}", f"IOF of {parameter}, medians: {medians}.")


def beside_one_another(
    values: NDArray[np.float64], half_width: float, height: float, dot: float
) -> NDArray[np.float64]:
    """Return how far each point moves sideways so that none hides another; the same for the same values.

    Args:
        values: ``[N]``, heights of the points.
        half_width: how far a point may move, in pixels.
        height: of a value of 1, in pixels.
        dot: diameter of a point, in pixels. Where there is no room for so large ones, they overlap as little as they
            can.

    Returns:
        ``[N]``, in pixels, right of the middle positive.
    """
    moved = np.zeros(len(values))
    steps = np.arange(0.5, half_width, 0.5)
    candidates = np.concatenate([[0.0], np.stack([steps, -steps], axis=1).ravel()])
    order = np.argsort(values, kind="stable")
    for done, index in enumerate(order):
        before = order[:done]
        distances = np.hypot(candidates[:, None] - moved[before], height * (values[index] - values[before]))
        nearest = distances.min(axis=1, initial=np.inf)
        free = np.flatnonzero(nearest >= dot)
        moved[index] = candidates[free[0] if len(free) else nearest.argmax()]
    return moved


def _write(axes: Axes, x: float, down: float, text: str, *, size: int = 12, ha: str = "center", **style: Any) -> None:
    """Put a text below the axes, ``down`` pixels under their end."""
    axes.annotate(text, (x, 0), (0, down), ("data", "axes fraction"), "offset points", size=size, ha=ha, **style)


def _short(count: int) -> str:
    """A number of at most four characters."""
    return str(count) if count < 1000 else f"{count / 1000:.1f}k" if count < 10_000 else f"{count // 1000}k"


def _violin(axes: Axes, place: float, values: NDArray[np.float64], index: int, scale: tuple[float, float]) -> None:
    line, fill = series(index)
    if not len(values):
        axes.text(place, 0.0, "none", ha="center", va="bottom", color=COLOURS["muted"], rotation=90)
        return
    if len(values) < MIN_POINTS:
        aside = beside_one_another(values, 0.42 * scale[0] - _DOT / 2, scale[1], _DOT) / scale[0]
        axes.hlines(np.median(values), place - 0.45, place + 0.45, color=COLOURS["ink"], linewidth=2)
        axes.scatter(place + aside, values, s=_DOT**2, marker=MARKERS[index], facecolor=fill, edgecolor=line, zorder=3)
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
