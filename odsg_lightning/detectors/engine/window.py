"""A rectangle of a feature map, outside of which a cotangent is zero."""

from dataclasses import dataclass

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
        dropped: ``[N]`` see :class:`odsg_lightning.detectors.engine.trimming.Trimmer`; None of exact ones.
    """

    values: Tensor
    top: int = 0
    left: int = 0
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
        return Window(values, self.top + rows[0], self.left + columns[0])
