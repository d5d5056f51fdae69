"""The distribution of one measure over objects, one row for each explainer."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.mlab import GaussianKDE
from numpy.typing import NDArray

from odsg_lightning.viz.svg import COLOURS, panel, svg_text
from odsg_lightning.viz.violins import MIN_POINTS, beside_one_another

_WIDTH, _ROW = 340, 26  # CSS pixels
_MARGINS = (138, 22, 18, 6)
_DOT = 5.0


def distribution_rows(name: str, label: str, values: Mapping[str, NDArray[np.float64]]) -> str:
    """Draw lying violins, each with its quartiles and median; fewer than ``MIN_POINTS`` values are points.

    Args:
        name: put before the ids of the picture; letters, digits and ``-``.
        label: what is drawn, for those who hear the picture.
        values: of each row ``[N]``, without NaN; N may be 0. The axis has 0 to 1, and what lies beyond.

    Returns:
        An ``<svg>`` element.
    """
    height = _MARGINS[1] + _MARGINS[3] + _ROW * len(values)
    every = np.concatenate([[0.0, 1.0], *values.values()])
    start, end = every.min(), every.max()
    with panel(_WIDTH, height, _MARGINS) as (figure, axes):
        axes.set(xlim=(start, end), ylim=(len(values) - 0.5, -0.5), yticks=range(len(values)))
        axes.set_yticklabels(list(values), color=COLOURS["ink"])
        axes.tick_params(axis="y", pad=8)  # a point at 0 lies half to the left of it
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.locator_params(axis="x", nbins=4)
        for place, of_row in enumerate(values.values()):
            _row(axes, place, of_row, start, end)
        medians = ", ".join(f"{row} {np.median(found):.2f}" for row, found in values.items() if len(found))
        return svg_text(figure, name, f"{label}, medians: {medians}.")


def _row(axes: Axes, place: int, values: NDArray[np.float64], start: float, end: float) -> None:
    line, fill = COLOURS["series-1"], COLOURS["tint-1"]
    if not len(values):
        axes.text(start + 0.01 * (end - start), place, "none", va="center", color=COLOURS["muted"])
        return
    low, median, high = np.percentile(values, [25, 50, 75])
    if len(values) < MIN_POINTS:
        length = (_WIDTH - _MARGINS[0] - _MARGINS[2]) / (end - start)
        aside = beside_one_another(values, 0.42 * _ROW - _DOT / 2, length, _DOT) / _ROW
        axes.scatter(values, place + aside, s=_DOT**2, facecolor=fill, edgecolor=line, clip_on=False, zorder=3)
        axes.vlines(median, place - 0.4, place + 0.4, color=COLOURS["ink"], linewidth=2)
        return
    if np.ptp(values) > 0:
        across = np.linspace(values.min(), values.max(), 64)
        density = GaussianKDE(values)(across)
        half = 0.43 * density / density.max()
        axes.fill_between(across, place - half, place + half, facecolor=fill, edgecolor=line, linewidth=1)
    axes.hlines(place, low, high, color=COLOURS["ink"], linewidth=3)
    axes.scatter([median], [place], s=30, facecolor=COLOURS["paper"], edgecolor=COLOURS["ink"], clip_on=False, zorder=3)
