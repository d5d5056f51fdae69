"""Means of a comparison with intervals, and which explainer is better than all others, if one is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from odsg_lightning.comparison.measures import MEASURES, Measure
from odsg_lightning.comparison.result import CheckpointResult
from odsg_lightning.gate.resampling import Floats, mean_intervals

RESAMPLES = 4000
LEVEL = 0.95


@dataclass(frozen=True)
class Cell:
    """One measure of one explainer.

    Attributes:
        mean: over the objects with a value; None without any.
        interval: of the mean, whole images resampled; None with a value in fewer than
            :data:`odsg_lightning.gate.resampling.MIN_IMAGES` images.
        count: objects with a value.
        best: whether it is better than every other explainer that there is a value of: the intervals of all paired
            differences, all of them together at :data:`LEVEL` (Bonferroni), lie above 0. An explainer with the same
            maps is no other.
    """

    mean: float | None
    interval: tuple[float, float] | None
    count: int
    best: bool = False


@dataclass(frozen=True)
class Row:
    """One explainer.

    Attributes:
        name: of the explainer.
        cells: by the measure's key.
        objects: that were explained.
        maps: that it gives of them, defined or not.
        undefined: of these.
        seconds: for each object; None without objects.
    """

    name: str
    cells: dict[str, Cell]
    objects: int
    maps: int
    undefined: int
    seconds: float | None


def summary(result: CheckpointResult, seed: int = 0) -> list[Row]:
    """Return the rows of the tables, in the order in which the explainers were asked.

    Args:
        result: of one checkpoint.
        seed: of the resampling.
    """
    names, objects = result.shown, result.objects
    columns = {measure.key: _column(result, measure, names, seed) for measure in MEASURES}
    seconds = result.seconds_per_object
    return [
        Row(
            name,
            {key: cells[index] for key, cells in columns.items()},
            len(objects),
            len(objects) * len(result.gives[name]),
            sum(one.undefined[name] for one in objects),
            seconds[name],
        )
        for index, name in enumerate(names)
    ]


def values_of(result: CheckpointResult, measure: Measure, names: Sequence[str]) -> Floats:
    """Return the values ``[objects, names]`` of a measure, NaN where there is none."""
    rows = [[one.values[name].get(measure.key) for name in names] for one in result.objects]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(names))


def _column(result: CheckpointResult, measure: Measure, names: Sequence[str], seed: int) -> list[Cell]:
    values = values_of(result, measure, names)
    images = np.unique([one.image_id for one in result.objects], return_inverse=True)[1].astype(np.intp)
    counts = np.isfinite(values).sum(axis=0)
    means = [float(np.nanmean(column)) if count else None for column, count in zip(values.T, counts, strict=True)]
    intervals = mean_intervals(values, images, RESAMPLES, seed, (1 - LEVEL) / 2)
    best = _best(values, means, images, measure, seed)
    return [
        Cell(mean, interval, int(count), index in best)
        for index, (mean, interval, count) in enumerate(zip(means, intervals, counts, strict=True))
    ]


def _best(
    values: Floats, means: Sequence[float | None], images: NDArray[np.intp], measure: Measure, seed: int
) -> set[int]:
    """Return which columns are better than all others; several if they are the same."""
    known = [index for index, mean in enumerate(means) if mean is not None]
    if measure.better == "neither" or len(known) < 2:
        return set()
    sign = 1 if measure.better == "higher" else -1
    first = max(known, key=lambda index: sign * (means[index] or 0.0))
    differences = sign * (values[:, [first]] - values[:, known])
    same = {index for column, index in enumerate(known) if np.array_equal(values[:, first], values[:, index], True)}
    others = [column for column, index in enumerate(known) if index not in same]
    if not others:
        return set()
    tail = (1 - LEVEL) / 2 / len(others)
    intervals = mean_intervals(differences[:, others], images, RESAMPLES, seed, tail)
    return same if all(interval is not None and interval[0] > 0 for interval in intervals) else set()
