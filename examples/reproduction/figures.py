"""The figures of the paper, drawn from what was explained and measured here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arms import PRIMARY
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from results import REGIONS, Results
from up_left import Look

from odsg_lightning.files import replaced
from odsg_lightning.names import BOX_PARAMETERS, PARAMETERS
from odsg_lightning.saliency.masks import binarise, object_thirds
from odsg_lightning.viz.svg import COLOURS

LAST_ARM = "method 1, smoothed"
"""The arm that not every picture has."""
_ONE_PASS_FIRST = ("method 1, one pass", "method 2, one pass", "method 1, smoothed", PRIMARY)
_THIRDS = ((0.90, 0.35, 0.10), (0.20, 0.60, 0.35), (0.20, 0.40, 0.85))  # edge, middle, opposite


def one_map_per_object(examples: Sequence[tuple[str, dict[str, Any]]], path: Path) -> None:
    """Figure 1: two objects of one class in a picture, and a map for each, where a classifier has one per picture."""
    figure = _figure(3, len(examples))
    for row, (title, content) in enumerate(examples):
        first, second = _twins(content)
        axes = [_picture(figure, len(examples), 3, row, column, content["image"]) for column in range(3)]
        axes[0].set_title(title, fontsize=9)
        for axis, place in zip(axes[1:], (first, second), strict=True):
            maps = content[f"maps/{PRIMARY}"][place][:4].astype(np.float32)
            axis.imshow(np.nanmax(maps, axis=0), cmap="inferno")
            axis.set_title(f"maps of {'one' if place == first else 'the other'}", fontsize=9)
            _box(axis, content["found"][place])
        for place in (first, second):
            _box(axes[0], content["found"][place])
    _save(figure, path)


def maps_by_arm(examples: Sequence[tuple[str, dict[str, Any], int]], path: Path) -> None:
    """Figure 2: the five maps of an object, by both methods, in one pass and in 20."""
    rows = [(title, content, place, arm) for title, content, place in examples for arm in _ONE_PASS_FIRST]
    figure = _figure(6, len(rows))
    for row, (title, content, place, arm) in enumerate(rows):
        axis = _picture(figure, len(rows), 6, row, 0, content["image"])
        _box(axis, content["found"][place])
        axis.set_title(title if arm == _ONE_PASS_FIRST[0] else "", fontsize=9)
        axis.set_ylabel(arm)
        for column, name in enumerate(PARAMETERS):
            axis = figure.add_subplot(len(rows), 6, row * 6 + column + 2)
            axis.imshow(content[f"maps/{arm}"][place][column].astype(np.float32), cmap="inferno")
            _box(axis, content["found"][place])
            axis.set(xticks=[], yticks=[], title=name if arm == _ONE_PASS_FIRST[0] else "")
    _save(figure, path)


def sections(examples: Sequence[tuple[str, dict[str, Any], int]], path: Path) -> None:
    """Figure 3: the thirds of an object as each box parameter sees them, and the foreground of its map on them."""
    figure = _figure(5, len(examples))
    for row, (title, content, place) in enumerate(examples):
        axis = _picture(figure, len(examples), 5, row, 0, content["image"])
        axis.set_title(title, fontsize=9)
        mask = torch.from_numpy(content["masks"][content["detected"][place]])
        thirds = object_thirds(mask).numpy()
        foreground = binarise(torch.from_numpy(content[f"maps/{PRIMARY}"][place]).float()).numpy()
        for column, name in enumerate(BOX_PARAMETERS):
            axis = _picture(figure, len(examples), 5, row, column + 1, content["image"])
            shade = np.zeros((*mask.shape, 4))
            for third, colour in zip(thirds[column], _THIRDS, strict=True):
                shade[third] = (*colour, 0.55)
            axis.imshow(shade)
            if foreground[column].any():
                axis.contour(foreground[column], [0.5], colors="white", linewidths=1.5)
            axis.set_title(name)
    _save(figure, path, "Red: the parameter's own edge; green: middle; blue: opposite. White: foreground of its map.")


def violins(results: Sequence[Results], path: Path) -> None:
    """Figure 4: the distribution of IOF over objects, by parameter and region."""
    figure = Figure(figsize=(11, 3 * len(results)), layout="constrained")
    for row, of_detector in enumerate(results):
        for column, name in enumerate(BOX_PARAMETERS):
            axis = figure.add_subplot(len(results), 4, row * 4 + column + 1)
            values = [_defined(of_detector.iof(PRIMARY)[:, column, region]) for region in range(3)]
            axis.set(ylim=(-0.03, 1.03), xticks=range(3), title=f"{of_detector.detector}, {name}")
            axis.set_xticklabels([f"{region}\nn {len(some)}" for region, some in zip(REGIONS, values, strict=False)])
            axis.grid(axis="y", color=COLOURS["rule"])
            for place, some in enumerate(values):
                _violin(axis, place, some)
            if column == 0:
                axis.set_ylabel("IOF")
    _save(figure, path)


def up_left(rows: Sequence[tuple[str, list[Look]]], path: Path) -> None:
    """The failure story: where the cells of each level look, and where they are."""
    columns = max(len(looks) for _, looks in rows)
    figure = _figure(columns, len(rows), size=2.6)
    for row, (title, looks) in enumerate(rows):
        for column, look in enumerate(looks):
            axis = figure.add_subplot(len(rows), columns, row * columns + column + 1)
            half = min(look.window.shape[0] // 2, 48)
            middle = look.window.shape[0] // 2
            part = look.window[middle - half : middle + half, middle - half : middle + half]
            extent = (-half, half, half, -half)
            axis.imshow(part, cmap="inferno", extent=extent, vmax=np.quantile(part, 0.995))
            own = look.stride / 2
            axis.add_patch(Rectangle((-own, -own), 2 * own, 2 * own, fill=False, color="white", linewidth=1.2))
            axis.plot(0, 0, "+", color="white", markersize=9)
            axis.plot(*look.shift, "x", color="#00e5ff", markersize=9, markeredgewidth=2)
            axis.set(xticks=[-half, 0, half], yticks=[])
            axis.set_title(f"{look.level}: {look.shift[0]:+.1f}, {look.shift[1]:+.1f} px", fontsize=9)
            axis.set_ylabel("" if column else title.replace(", ", "\n"), fontsize=9)
    _save(figure, path, "White square and +: the cell's own pixels. Blue x: centre of |d cell / d image|.")


def _violin(axis: Axes, place: int, values: NDArray[np.float64]) -> None:
    if len(values) < 2 or np.ptp(values) == 0:
        axis.plot([place] * len(values), values, "o", color=COLOURS["series-1"])
        return
    parts: dict[str, Any] = axis.violinplot([values], [place], widths=0.85, showextrema=False)  # type: ignore[assignment]
    parts["bodies"][0].set(facecolor=COLOURS["tint-1"], edgecolor=COLOURS["series-1"], alpha=1)
    low, median, high = np.percentile(values, [25, 50, 75])
    axis.vlines(place, low, high, color=COLOURS["ink"], linewidth=3)
    axis.plot(place, median, "o", color="white", markeredgecolor=COLOURS["ink"])


def _twins(content: dict[str, Any]) -> tuple[int, int]:
    """Return two detected objects of one class."""
    labels = content["labels"][content["detected"]]
    return next((a, b) for a in range(len(labels)) for b in range(a + 1, len(labels)) if labels[a] == labels[b])


def has_twins(content: dict[str, Any]) -> bool:
    """Return whether two objects of one class were detected in a picture."""
    labels = content["labels"][content["detected"]]
    return len(set(labels.tolist())) < len(labels)


def _figure(columns: int, rows: int, size: float = 2.0) -> Figure:
    return Figure(figsize=(size * columns, size * rows + 0.4), layout="constrained")


def _picture(figure: Figure, rows: int, columns: int, row: int, column: int, image: NDArray[np.uint8]) -> Axes:
    axis = figure.add_subplot(rows, columns, row * columns + column + 1)
    axis.imshow(image.transpose(1, 2, 0))
    axis.set(xticks=[], yticks=[])
    return axis


def _box(axis: Axes, box: NDArray[np.float32]) -> None:
    x_min, y_min, x_max, y_max = box.tolist()
    axis.add_patch(
        Rectangle((x_min - 0.5, y_min - 0.5), x_max - x_min, y_max - y_min, fill=False, color="#ff40ff", linewidth=1.2)
    )


def _defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[np.isfinite(values)]


def _save(figure: Figure, path: Path, caption: str = "") -> None:
    if caption:
        figure.supxlabel(caption, fontsize=9)
    with replaced(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")
