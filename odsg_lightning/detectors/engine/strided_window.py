"""Cotangents on a rectangle of cells, channels last, and the arithmetic of such rectangles."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Box(NamedTuple):
    """A rectangle of cells; ``bottom`` and ``right`` are outside."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        """Number of cells."""
        return (self.bottom - self.top) * (self.right - self.left)

    def grown(self, margin: int, size: tuple[int, int]) -> "Box":
        """Return the rectangle with a margin around it, inside a map of ``size`` (height, width)."""
        return Box(self.top - margin, self.left - margin, self.bottom + margin, self.right + margin).clipped(size)

    def clipped(self, size: tuple[int, int]) -> "Box":
        """Return the part inside a map of ``size`` (height, width)."""
        return Box(max(0, self.top), max(0, self.left), min(size[0], self.bottom), min(size[1], self.right))

    def holds(self, other: "Box") -> bool:
        """Whether the other rectangle lies inside."""
        return (
            self.top <= other.top
            and self.left <= other.left
            and self.bottom >= other.bottom
            and self.right >= other.right
        )

    @staticmethod
    def around(boxes: Sequence["Box"]) -> "Box":
        """Return the smallest rectangle that holds all of them."""
        tops, lefts, bottoms, rights = zip(*boxes, strict=True)
        return Box(min(tops), min(lefts), max(bottoms), max(rights))


@dataclass(frozen=True)
class StridedWindow:
    """Cotangents of a feature map at every ``step``-th cell from (``top``, ``left``) on; elsewhere they are zero.

    Attributes:
        values: ``[N, h, w, C]``.
        top: row of the first one.
        left: column of the first one.
        step: 2 behind a 1x1 convolution of stride 2, which reads every second cell only.
    """

    values: Tensor
    top: int
    left: int
    step: int = 1

    @property
    def box(self) -> Box:
        """The rectangle that holds them."""
        height, width = self.values.shape[1:3]
        reach = (self.step * (height - 1) + 1, self.step * (width - 1) + 1)
        return Box(self.top, self.left, self.top + reach[0], self.left + reach[1])

    def within(self, box: Box, of: Tensor) -> Tensor:
        """Return the view of ``of``, a ``[N, h, w, C]`` tensor on ``box``, at the cells of this one."""
        own = self.box
        rows = slice(own.top - box.top, own.bottom - box.top, self.step)
        columns = slice(own.left - box.left, own.right - box.left, self.step)
        return of[:, rows, columns]

    def part(self, box: Box) -> Tensor:
        """Return the view of the values that lie in a rectangle."""
        top, left, bottom, right = (
            max(0, -((start - edge) // self.step))
            for edge, start in zip(box, (self.top, self.left, self.top, self.left), strict=True)
        )
        return self.values[:, top:bottom, left:right]


class Records:
    """What one forward pass of a batch recorded, of the images that the rows of a cotangent belong to.

    Args:
        images: see :class:`odsg_lightning.detectors.engine.window.Window`.
    """

    def __init__(self, images: tuple[int, ...]) -> None:
        """See the class for the arguments."""
        self._count = len(images)
        first = images[0]
        in_a_row = images == tuple(range(first, first + self._count))
        self._chosen = slice(first, first + self._count) if in_a_row else list(images)

    def of(self, recorded: Tensor) -> Tensor:
        """Return the part ``[n, 1, ...]`` of these images of a record ``[B, ...]``, a view where it can be one."""
        return recorded[self._chosen][:, None]

    def by_image(self, values: Tensor) -> Tensor:
        """Return a view ``[n, N / n, ...]`` of cotangents ``[N, ...]``."""
        return values.view(self._count, len(values) // self._count, *values.shape[1:])


def clipped(values: Tensor, top: int, left: int, size: tuple[int, int]) -> StridedWindow:
    """Return the part of ``[N, h, w, C]`` at (``top``, ``left``) that lies inside a map of ``size`` (height, width)."""
    box = Box(top, left, top + values.shape[1], left + values.shape[2])
    inside = box.clipped(size)
    rows, columns = slice(inside.top - top, inside.bottom - top), slice(inside.left - left, inside.right - left)
    return StridedWindow(values[:, rows, columns], inside.top, inside.left)


class Scratch:
    """Two buffers in turn: what is written next never lies over what was written last.

    A CPU takes longer to hand out fresh memory for the widest maps than to fill them.
    """

    def __init__(self) -> None:
        """Begin without memory."""
        self._buffers: dict[int, Tensor] = {}
        self._turn = 0

    def zeros(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return zeros of a shape, of the type and device of ``like``; valid until the call after the next."""
        self._turn = 1 - self._turn
        size, buffer = math.prod(shape), self._buffers.get(self._turn)
        if buffer is None or buffer.numel() < size or (buffer.dtype, buffer.device) != (like.dtype, like.device):
            self._buffers.pop(self._turn, None)
            buffer = self._buffers[self._turn] = like.new_empty(size)
        return buffer[:size].view(shape).zero_()


def summed(parts: Sequence[StridedWindow], box: Box, scratch: Scratch | None = None) -> Tensor:
    """Return the sum of all parts as ``[N, h, w, C]`` on a rectangle that holds them, in fresh memory or in scratch."""
    like = parts[0].values
    shape = (like.shape[0], box.bottom - box.top, box.right - box.left, like.shape[3])
    total = like.new_zeros(shape) if scratch is None else scratch.zeros(shape, like)
    for part in parts:
        part.within(box, total).add_(part.values)
    return total
