"""Bootstrap of means over objects, whole images resampled, because the objects of one image are correlated.

Percentile intervals: BCa gives NaN on identical records. An image drawn twice counts twice with all its objects, and a
mean stays one over objects: the sum of their values over their number. See Davison and Hinkley, *Bootstrap Methods and
their Application* (1997), chapter 5, for the order statistics.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MIN_IMAGES = 5
"""With fewer images an interval says nothing: of four, one resample in 64 is the same image four times."""

_DRAWN = 2_000_000  # images drawn at a time: 16 MB


@dataclass(frozen=True, slots=True)
class Resamples:
    """Means of resampled images.

    Attributes:
        means: ``[resamples, columns]``, ascending in each column, those without any object (NaN) last.
        tail: share above the interval, and below it.
    """

    means: Floats
    tail: float

    def interval(self, column: int) -> tuple[float, float]:
        """Return the bounds of a column's mean.

        The k-th smallest and the k-th largest, k = tail * (resamples + 1): the mean is significantly below a threshold
        (:meth:`p_below` at most ``tail``) exactly where the upper bound is below it.
        """
        means = self._defined(column)
        rank = max(1, int(self.tail * (len(means) + 1) + 1e-9))
        return float(means[rank - 1]), float(means[-rank])

    def p_below(self, column: int, threshold: float) -> float:
        """Return the one-sided p-value of "the mean is below the threshold"."""
        means = self._defined(column)
        not_below = len(means) - int(np.searchsorted(means, threshold))
        return (1 + not_below) / (1 + len(means))

    def _defined(self, column: int) -> Floats:
        means = self.means[:, column]
        return means[: len(means) - int(np.isnan(means).sum())]


def image_totals(values: Floats, images: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Return the sums of the defined values in each image, and their number: what :func:`resample_images` takes.

    Args:
        values: ``[objects, columns]``, NaN where an object has none.
        images: ``[objects]`` the image of each object, numbered from 0.

    Example:
        >>> sums, counts = image_totals(np.array([[1.0], [3.0], [np.nan], [5.0]]), np.array([0, 0, 0, 1]))
        >>> sums.tolist(), counts.tolist()
        ([[4.0], [5.0]], [[2.0], [1.0]])
    """
    defined = np.isfinite(values)
    sums, counts = np.zeros((2, int(images.max(initial=-1)) + 1, values.shape[1]))
    np.add.at(sums, images, np.where(defined, values, 0.0))
    np.add.at(counts, images, defined)
    return sums, counts


def mean_intervals(
    values: Floats, images: NDArray[np.intp], resamples: int, seed: int, tail: float
) -> list[tuple[float, float] | None]:
    """Return the interval of each column's mean; None with a value in fewer than :data:`MIN_IMAGES` images.

    Args:
        values: see :func:`image_totals`.
        images: see there.
        resamples: see :func:`resample_images`, also for the rest.
        seed: as there.
        tail: as there.
    """
    sums, counts = image_totals(values, images)
    enough = (counts > 0).sum(axis=0) >= MIN_IMAGES
    if not enough.any():
        return [None] * values.shape[1]
    resampled = resample_images(sums, counts, resamples, seed, tail)
    return [resampled.interval(column) if enough[column] else None for column in range(values.shape[1])]


def resample_images(sums: Floats, counts: Floats, resamples: int, seed: int, tail: float) -> Resamples:
    """Resample images with replacement, the same ones for every column.

    Args:
        sums: ``[images, columns]``, the sum of a column's values over the objects of an image.
        counts: ``[images, columns]``, the number of those objects.
        resamples: how many.
        seed: the same seed and number of images draw the same images.
        tail: share above the interval, and below it.
    """
    images = len(sums)
    columns = np.ascontiguousarray(np.concatenate([sums, counts], axis=1))
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, sums.shape[1]))
    rows = max(1, _DRAWN // images)
    for start in range(0, resamples, rows):
        number = min(rows, resamples - start)
        drawn = generator.integers(0, images, size=(number, images)) + np.arange(number)[:, None] * images
        times = np.bincount(drawn.reshape(-1), minlength=number * images).reshape(number, images)
        total, objects = np.split(times.astype(np.float64) @ columns, 2, axis=1)
        with np.errstate(invalid="ignore"):
            means[start : start + number] = total / objects
    means.sort(axis=0)
    return Resamples(means, tail)
