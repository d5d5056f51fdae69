"""The claim as eight comparisons: intervals over whole images, Holm's correction, and a verdict for each.

The rules were fixed before any of the results were seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from odsg_lightning.gate.resampling import image_totals, resample_images

RESAMPLES = 4000
LEVEL = 0.05

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Mean:
    """A mean over objects.

    Attributes:
        mean: of the defined values.
        low: lower bound of the 95 % interval, whole images resampled.
        high: upper bound.
        p: two-sided: that the mean is 0.
        count: number of defined values.
    """

    mean: float
    low: float
    high: float
    p: float
    count: int


def means_by_image(values: Floats, images: NDArray[np.int64]) -> list[Mean]:
    """Return mean and interval of each column.

    Objects of one image are correlated, and so are the values that several trainings give of the same object: an image
    is drawn with everything that is on it.

    Args:
        values: ``[N, columns]``, NaN where undefined.
        images: ``[N]``.
    """
    _, index = np.unique(images, return_inverse=True)
    sums, counts = image_totals(values, index)
    total = counts.sum(axis=0)
    found = [Mean(np.nan, np.nan, np.nan, np.nan, 0)] * values.shape[1]
    known = np.flatnonzero(total > 0)
    if not len(known):
        return found
    # The same resamples of the negated values say how sure it is that a mean is above 0.
    both = np.concatenate([sums[:, known], -sums[:, known]], axis=1)
    resampled = resample_images(both, np.tile(counts[:, known], 2), RESAMPLES, seed=0, tail=LEVEL / 2)
    for place, column in enumerate(known):
        p = 2 * min(resampled.p_below(place, 0.0), resampled.p_below(place + len(known), 0.0))
        mean = float(sums[:, column].sum() / total[column])
        found[column] = Mean(mean, *resampled.interval(place), min(p, 1.0), int(total[column]))
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979): the probability of a single false one stays below 5 %.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        corrected[index] = round(min(largest, 1.0), 12)
    return corrected


def verdict(mean: Mean, corrected: float) -> str:
    """Return *reproduced*, *contradicted* or *undecided*: whether the mean is above 0, below, or neither is sure.

    Args:
        mean: of the differences between edge and middle.
        corrected: its p-value after :func:`holm`.
    """
    if mean.low > 0 and corrected <= LEVEL:
        return "reproduced"
    if mean.high < 0 and corrected <= LEVEL:
        return "contradicted"
    return "undecided"
