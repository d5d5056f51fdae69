"""Cotangents of several objects in one vector-Jacobian product, as many as pay and as memory allows."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from odsg_lightning.detectors.engine.window import Window, put, zeros_around
from odsg_lightning.saliency.memory import free_memory, out_of_memory

Cotangents = Mapping[str, Window]
Vjp = Callable[[Cotangents], Window]

_REACH = 256
"""Pixels by which a window of cotangents is taken to grow on its way to the image, on each side."""
_CELL = 7
"""Pixels whose share of a ResNet's backward pass costs what a cell of the pyramid's 3x3 convolution costs."""
_PAYS = 1.1
"""Objects are merged up to this ratio of the work together to the work one by one."""
_FLOATS_PER_PIXEL = 16
"""Of a ResNet's widest maps, for one cotangent: 256 channels at stride 4, or 64 at stride 2."""
_CPU_BYTES = 32 * 2**20
"""Of these maps in one call on a CPU, where larger ones leave the caches and batching gains nothing more."""
_LEAST = 5
"""Cotangents of a call before memory has run out: those of one object."""


@dataclass
class Frame:
    """The backbone's input, and how its features lie on it.

    Attributes:
        pixels: ``[1, 3, H, W]`` the backbone's input.
        sizes: height and width of each feature in cells.
        limit: most cotangents in one call; found by running out of memory.
    """

    pixels: Tensor
    sizes: Mapping[str, tuple[int, int]]
    limit: int | None = None

    def area(self, cotangents: Cotangents) -> float:
        """Return the pixels that the cotangents reach, about."""
        height, width = self.pixels.shape[2:]
        boxes = []
        for name, window in cotangents.items():
            y, x = height / self.sizes[name][0], width / self.sizes[name][1]
            boxes.append((window.top * y, window.left * x, window.bottom * y, window.right * x))
        top, left = (max(0.0, min(box[side] for box in boxes) - _REACH) for side in (0, 1))
        bottom = min(float(height), max(box[2] for box in boxes) + _REACH)
        right = min(float(width), max(box[3] for box in boxes) + _REACH)
        return (bottom - top) * (right - left)

    def work(self, cotangents: Cotangents) -> float:
        """Return what carrying one of the cotangents to the image costs, about, in pixels."""
        cells = sum(
            (window.bottom - window.top + 2) * (window.right - window.left + 2) for window in cotangents.values()
        )
        return self.area(cotangents) + _CELL * cells

    def most(self, area: float) -> int:
        """Return how many cotangents of this area one call may have."""
        each = _FLOATS_PER_PIXEL * area * self.pixels.element_size()
        # On CUDA an eighth of what is free: a few such maps live at the same time.
        free = free_memory(self.pixels.device) / 8 if self.pixels.is_cuda else _CPU_BYTES
        most = max(_LEAST, int(free / each))
        return most if self.limit is None else min(most, self.limit)


def vjp_in_chunks(vjp: Vjp, objects: Iterable[Cotangents], frame: Frame) -> Iterator[Window | None]:
    """Carry the cotangents of each object back, near objects together.

    What is in memory at one time does not depend on the number of objects: they are taken one after the other.

    Args:
        vjp: see :class:`odsg_lightning.detectors.engine.backbone.BackboneEngine`.
        objects: the cotangents of each object by feature, the same number of them in all and of the same images; none
            for an object whose numbers do not depend on the features.
        frame: of this image.

    Yields:
        For each object in order its gradients of the backbone's input, None for an object without cotangents.

    Raises:
        torch.cuda.OutOfMemoryError: memory does not suffice for a single cotangent.
    """
    group: list[Cotangents] = []
    for cotangents in objects:
        if group and not (cotangents and _pays([*group, cotangents], frame)):
            yield from _together(vjp, group, frame)
            group = []
        if cotangents:
            group.append(cotangents)
        else:
            yield None
    if group:
        yield from _together(vjp, group, frame)


def _pays(group: list[Cotangents], frame: Frame) -> bool:
    """Return whether the last object should join the others."""
    union = _bounds(group)
    if sum(map(_count, group)) > frame.most(frame.area(union)):
        return False
    return frame.work(union) * len(group) <= _PAYS * sum(map(frame.work, group))


def _together(vjp: Vjp, group: list[Cotangents], frame: Frame) -> Iterator[Window]:
    """Yield the gradients of each object of a group."""
    gradients = _within_memory(vjp, _merged(group), frame)
    start = 0
    for cotangents in group:
        rows = slice(start, start + _count(cotangents))
        dropped = None if gradients.dropped is None else gradients.dropped[rows]
        yield Window(gradients.values[rows], gradients.top, gradients.left, dropped=dropped)
        start = rows.stop


def _within_memory(vjp: Vjp, cotangents: Cotangents, frame: Frame) -> Window:
    """Carry cotangents back in one call, or in several if memory runs out."""
    count, start, parts = _count(cotangents), 0, []
    while start < count:
        rows, images = _next_rows(_images(cotangents), count, start, frame.most(frame.area(cotangents)))
        size = rows.stop - rows.start
        part = {
            name: Window(window.values[rows], window.top, window.left, images) for name, window in cotangents.items()
        }
        try:
            parts.append(vjp(part))
        except RuntimeError as error:
            if size == 1 or not out_of_memory(error):
                raise
            frame.limit = size // 2  # and again, when the traceback has let go of what the call had allocated
        else:
            start += size
    return parts[0] if len(parts) == 1 else _stacked(parts)


def _next_rows(images: tuple[int, ...], count: int, start: int, most: int) -> tuple[slice, tuple[int, ...]]:
    """Return the next rows of ``count``, and their images: of several as many of each, or of one alone."""
    of_each = count // len(images)
    if most < of_each or start % of_each:
        stop = min(start + most, (start // of_each + 1) * of_each)
    else:
        stop = min(start + most // of_each * of_each, count)
    return slice(start, stop), images[start // of_each : -(-stop // of_each)]


def _images(cotangents: Cotangents) -> tuple[int, ...]:
    return next(iter(cotangents.values())).images


def _count(cotangents: Cotangents) -> int:
    return int(next(iter(cotangents.values())).values.shape[0])


def _bounds(group: list[Cotangents]) -> dict[str, Window]:
    """Return for each feature the smallest window that holds those of all objects, without values."""
    windows_of: dict[str, list[Window]] = {}
    for cotangents in group:
        for name, window in cotangents.items():
            windows_of.setdefault(name, []).append(window)
    return {name: zeros_around(windows, 0) for name, windows in windows_of.items()}


def _merged(group: list[Cotangents]) -> Cotangents:
    """Return the cotangents of all objects one after the other, zero where an object has none."""
    if len(group) == 1:
        return group[0]
    images = tuple(image for cotangents in group for image in _images(cotangents))
    images = images[:1] if len(set(images)) == 1 else images
    merged = {
        name: zeros_around([one[name] for one in group if name in one], sum(map(_count, group)), images)
        for name in _bounds(group)
    }
    start = 0
    for cotangents in group:
        for name, window in cotangents.items():
            put(window, merged[name], start)
        start += _count(cotangents)
    return merged


def _stacked(parts: list[Window]) -> Window:
    """Return the rows of all windows one after the other."""
    result, start = zeros_around(parts, sum(len(part.values) for part in parts)), 0
    for part in parts:
        put(part, result, start)
        start += len(part.values)
    dropped = [part.dropped for part in parts if part.dropped is not None]
    return replace(result, dropped=torch.cat(dropped)) if dropped else result
