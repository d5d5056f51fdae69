"""Values over the steps of a training, each curve labelled where it ends."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from odsg_lightning.viz.svg import LINES, MARKERS, N_SERIES, panel, series, svg_text

_WIDTH, _HEIGHT = 248, 230  # CSS pixels; without the labels
_LABEL_WIDTH = 128  # CSS pixels for the labels, at least: figures beside one another are then equally large
_LETTER = 7.2  # CSS pixels of a label's letter on average, in a broad font
_LABEL_HEIGHT = 15  # CSS pixels between the labels of two curves, at least


def step_curves(name: str, steps: Sequence[int], curves: Mapping[str, Sequence[float | None]]) -> str:
    """Draw curves over the training's steps, told apart by label, line style, marker and colour.

    Args:
        name: of the figure, for its ids and for screen readers; letters, digits and ``-``.
        steps: ascending, at least one.
        curves: for each label one value for each step; None or NaN leaves a gap.

    Returns:
        An ``<svg>`` element. Its vertical axis shows 0 to 1, and more where a value lies outside.

    Raises:
        ValueError: there are no steps, they do not ascend, a curve has another number of values, or there are too many
            curves to tell apart.
    """
    if not steps or list(steps) != sorted(set(steps)):
        raise ValueError(f"Expected steps in ascending order, but got {list(steps)}.")
    if not 1 <= len(curves) <= N_SERIES or any(len(values) != len(steps) for values in curves.values()):
        raise ValueError(
            f"Expected 1 to {N_SERIES} curves of {len(steps)} values, one for each step, but got "
            f"{ {label: len(values) for label, values in curves.items()} }."
        )
    rows = {label: np.array([np.nan if v is None else v for v in values]) for label, values in curves.items()}
    finite = np.concatenate([[0.0, 1.0], *(values[np.isfinite(values)] for values in rows.values())])
    longest = max(len(label) for label in curves) + len(" 0.00")
    margins = (34, 26, max(12 + round(_LETTER * longest), _LABEL_WIDTH), 8)
    with panel(_WIDTH + margins[2], _HEIGHT, margins) as (figure, axes):
        low, high = finite.min(), finite.max()
        reach = high - low
        axes.set_ylim(low - 0.03 * reach, high + 0.03 * reach)
        if (low, high) == (0, 1):
            axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.ticklabel_format(axis="x", style="plain", useOffset=False)
        for index, values in enumerate(rows.values()):
            line, fill = series(index)
            axes.plot(
                steps,
                values,
                color=line,
                linestyle=LINES[index],
                linewidth=1.8,
                marker=MARKERS[index],
                markersize=6,
                markerfacecolor=fill,
            )
        per_pixel = 1.06 * reach / (_HEIGHT - margins[1] - margins[3])
        ends = np.array([_last(values) for values in rows.values()])
        for index, (label, y) in enumerate(zip(rows, _spread(ends, _LABEL_HEIGHT * per_pixel), strict=True)):
            if np.isfinite(y):
                axes.annotate(
                    f"{label} {ends[index]:.2f}",
                    (1, y),
                    (8, 0),
                    ("axes fraction", "data"),
                    "offset points",
                    va="center",
                    color=series(index)[0],
                    annotation_clip=False,
                )
        last = ", ".join(f"{label} {_last(values):.2f}" for label, values in rows.items())
        return svg_text(figure, f"curve-{name}", f"{name} over steps {steps[0]} to {steps[-1]}; last values: {last}.")


def _last(values: NDArray[np.float64]) -> float:
    """The last value that is defined, or NaN."""
    finite = values[np.isfinite(values)]
    return float(finite[-1]) if len(finite) else float("nan")


def _spread(ends: NDArray[np.float64], least: float) -> NDArray[np.float64]:
    """Move heights apart until each is at least ``least`` above the next lower, around where they were; NaN stays."""
    order = [int(index) for index in np.argsort(ends) if np.isfinite(ends[index])]
    spread = ends.copy()
    for below, above in pairwise(order):
        spread[above] = max(spread[above], spread[below] + least)
    if order:
        spread[order] -= (spread[order] - ends[order]).mean()
    return spread
