"""A rectangle of a feature map, outside of which a cotangent is zero."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor


class UnsupportedModelError(Exception):
    """A detector is built in a way that an engine does not know; the message says which part, and why."""


@dataclass(frozen=True)
class Window:
    """Cotangents of a feature map, on the rectangle outside of which all of them are zero.

    Attributes:
        values: ``[N, C, h, w]``, one cotangent after the other.
        top: first row of the rectangle in the feature map, in cells.
        left: first column.
        images: which images of a batch they are of: the first of so many equal parts of the rows of the first of these,
            and so on.
        dropped: ``[N]`` see :class:`odsg_lightning.detectors.engine.trimming.Trimmer`; None of exact ones.
    """

    values: Tensor
    top: int = 0
    left: int = 0
    images: tuple[int, ...] = (0,)
    dropped: Tensor | None = None

    @property
    def bottom(self) -> int:
        """The row behind the last one."""
        return self.top + int(self.values.shape[2])

    @property
    def right(self) -> int:
        """The column behind the last one."""
        return self.left + int(self.values.shape[3])

    def trimmed(self) -> "Window":
        """Return the smallest rectangle that holds every value that is not zero; one cell if all are zero."""
        occupied = (self.values != 0).any(dim=1).any(dim=0)
        rows, columns = (occupied.any(dim=axis).nonzero().flatten().tolist() or [0] for axis in (1, 0))
        values = self.values[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return replace(self, values=values, top=self.top + rows[0], left=self.left + columns[0])


def zeros_around(windows: Sequence[Window], count: int, images: tuple[int, ...] = (0,)) -> Window:
    """Return ``count`` cotangents of zero on the smallest window that holds all of the given ones."""
    top, left = min(window.top for window in windows), min(window.left for window in windows)
    height = max(window.bottom for window in windows) - top
    width = max(window.right for window in windows) - left
    values = windows[0].values
    return Window(values.new_zeros(count, values.shape[1], height, width), top, left, images)


def put(window: Window, into: Window, start: int) -> None:
    """Write cotangents into the rows from ``start`` on of a window that holds theirs."""
    rows = slice(start, start + len(window.values))
    y, x = window.top - into.top, window.left - into.left
    into.values[rows, :, y : y + window.values.shape[2], x : x + window.values.shape[3]] = window.values


def stacked(windows: Sequence[Window | None], images: tuple[int, ...]) -> Window | None:
    """Return windows of equally many cotangents, one of each image, as one; None for zeros, or if all are None."""
    present = [window for window in windows if window is not None]
    if not present:
        return None
    count = len(present[0].values)
    result = zeros_around(present, count * len(windows), images)
    for index, window in enumerate(windows):
        if window is not None:
            put(window, result, index * count)
    return result
