"""How alike maps stay as a detector loses its weights, stage by stage."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from odsg_lightning.viz.svg import COLOURS, LINES, MARKERS, N_SERIES, STYLE, series

_WIDTH, _HEIGHT, _DPI = 4.6, 3.6, 120  # inches of a panel, and dots to the inch

Band = tuple[float, float, float] | None
"""A mean with the lower and the upper bound of its interval; None for none."""


def cascade_figure(
    stages: Sequence[str], panels: Mapping[str, Mapping[str, Sequence[Band]]], level: float
) -> NDArray[np.uint8]:
    """Draw panels side by side, each with a curve for each label: 1 as trained, then a value after each stage.

    Args:
        stages: names below the horizontal axis, after ``trained``; the last stands apart, for comparison.
        panels: for each title, for each label, one mean with its interval for each stage.
        level: drawn as a line across.

    Returns:
        ``[height, width, 3]`` RGB.

    Raises:
        ValueError: another number of values than of stages, or too many curves to tell apart.
    """
    for curves in panels.values():
        if not 1 <= len(curves) <= N_SERIES or any(len(values) != len(stages) for values in curves.values()):
            raise ValueError(
                f"Expected 1 to {N_SERIES} curves of {len(stages)} values, one for each stage, but got "
                f"{ {label: len(values) for label, values in curves.items()} }."
            )
    places = [*range(len(stages)), len(stages) + 0.5]
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(_WIDTH * len(panels), _HEIGHT), dpi=_DPI, layout="tight")
        canvas = FigureCanvasAgg(figure)
        for number, (title, curves) in enumerate(panels.items()):
            axes = figure.add_subplot(1, len(panels), number + 1)
            axes.set_title(title, fontsize=12)
            axes.axhline(level, color=COLOURS["muted"], linewidth=1, linestyle=":")
            for index, (label, values) in enumerate(curves.items()):
                bands = np.array([(1.0, 1.0, 1.0), *((np.nan,) * 3 if band is None else band for band in values)])
                line, fill = series(index)
                axes.fill_between(places[:-1], *bands[:-1, 1:].T, color=fill, alpha=0.5, linewidth=0)
                marks: dict[str, Any] = {
                    "color": line,
                    "marker": MARKERS[index],
                    "markersize": 5,
                    "markerfacecolor": fill,
                }
                axes.plot(places[:-1], bands[:-1, 0], linestyle=LINES[index], label=label, **marks)
                axes.plot(places[-1:], bands[-1:, 0], linestyle="none", **marks)
            lowest = [min(band) for values in curves.values() for band in values if band]
            axes.set_ylim(min([0.0, *lowest]) - 0.05, 1.05)
            axes.set_xticks(places, ["trained", *stages], rotation=35, ha="right", fontsize=10)
            if number == 0:
                axes.legend(frameon=False, fontsize=10)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()
