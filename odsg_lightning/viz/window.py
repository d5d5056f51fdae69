"""The part of an image that is shown around an object, and how it is enlarged or reduced to a panel."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from odsg_lightning.saliency.masks import mask_extent

_GROWTH, _MIN_GROWTH = 0.6, 32.0  # context on each side of the object: a share of its size, and at least these pixels
_WHOLE = 0.6  # a window that covers this share of the image is replaced by the whole image
_MAX_ASPECT = 1.75  # of a panel; a wider image gets bars above and below


@dataclass(frozen=True)
class Window:
    """A rectangle of the image and the panel that shows it.

    Attributes:
        left: first column of the image that is shown.
        top: first row.
        right: first column that is not shown any more.
        bottom: first row that is not shown any more.
        panel_height: height of the panel in pixels.
        panel_width: width of the panel in pixels.
    """

    left: int
    top: int
    right: int
    bottom: int
    panel_height: int
    panel_width: int

    @property
    def scale(self) -> float:
        """Panel pixels per image pixel."""
        return min(self.panel_width / (self.right - self.left), self.panel_height / (self.bottom - self.top))

    @property
    def picture(self) -> tuple[int, int, int, int]:
        """Where in the panel the image lies, XYXY; the rest are bars."""
        width = max(round(self.scale * (self.right - self.left)), 1)
        height = max(round(self.scale * (self.bottom - self.top)), 1)
        x, y = (self.panel_width - width) // 2, (self.panel_height - height) // 2
        return x, y, x + width, y + height

    @property
    def inside(self) -> NDArray[np.bool_]:
        """``[panel_height, panel_width]``: where the panel shows the image."""
        x_min, y_min, x_max, y_max = self.picture
        inside = np.zeros((self.panel_height, self.panel_width), dtype=bool)
        inside[y_min:y_max, x_min:x_max] = True
        return inside

    def show(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Resample an array ``[H, W]`` or uint8 ``[H, W, 3]`` to the panel; bars are 0."""
        x_min, y_min, x_max, y_max = self.picture
        part = np.ascontiguousarray(pixels[self.top : self.bottom, self.left : self.right])
        resized = Image.fromarray(part).resize((x_max - x_min, y_max - y_min), Image.Resampling.BILINEAR)
        panel = np.zeros((self.panel_height, self.panel_width, *pixels.shape[2:]), dtype=pixels.dtype)
        panel[y_min:y_max, x_min:x_max] = np.asarray(resized)
        return panel

    def show_mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Resample a mask ``[H, W]`` to the panel; its outline stays smooth when it is enlarged."""
        shown: NDArray[np.bool_] = self.show(mask.astype(np.uint8) * 255) >= 128
        return shown

    def contains_peak(self, values: NDArray[np.float32]) -> bool:
        """Whether the largest of the values ``[H, W]`` lies in the window."""
        row, column = divmod(int(values.argmax()), values.shape[1])
        return bool(self.top <= row < self.bottom and self.left <= column < self.right)

    def place(self, box: NDArray[np.float32]) -> tuple[int, int, int, int]:
        """Where the lines of a box belong, XYXY in panel pixels: each line is that pixel and the next.

        A line within the window stays visible at its border; one outside it lies outside the panel.
        """
        x_min, y_min, x_max, y_max = self.picture
        placed = []
        for i, value in enumerate(box.tolist()):
            first, last = (self.left, self.right) if i % 2 == 0 else (self.top, self.bottom)
            start, end = (x_min, x_max) if i % 2 == 0 else (y_min, y_max)
            line = round(start + (value - first) * self.scale) - 1
            if first <= value <= last:
                placed.append(min(max(line, start), end - 2))
            else:
                placed.append(min(max(line, start - 8), end + 8))  # a box that diverged must not cost time
        return placed[0], placed[1], placed[2], placed[3]


def window_around(
    size: tuple[int, int],
    extent: NDArray[np.float32] | None,
    panel_height: int,
    min_width: int,
) -> Window:
    """Choose the part of an image that shows an object with some of its surroundings.

    A small image is shown whole, and so is one of which the window would leave out little.

    Args:
        size: height and width of the image.
        extent: ``[4]`` XYXY of the object in pixels, or None for the whole image.
        panel_height: height of the panel in pixels.
        min_width: smallest width of the panel in pixels.

    Returns:
        The window; its panel is as wide as its shape asks for, within limits.
    """
    height, width = size
    max_width = max(int(_MAX_ASPECT * panel_height), min_width)
    left, top, right, bottom = 0, 0, width, height
    if extent is not None and (height > panel_height or width > max_width):
        x_min, x_max = _grow(extent[0], extent[2], width)
        y_min, y_max = _grow(extent[1], extent[3], height)
        x_min, x_max = _widen(x_min, x_max, (y_max - y_min) * min_width / panel_height, width)
        y_min, y_max = _widen(y_min, y_max, (x_max - x_min) * panel_height / max_width, height)
        if (x_max - x_min) * (y_max - y_min) < _WHOLE * width * height:
            left, top, right, bottom = x_min, y_min, x_max, y_max
    panel_width = round(panel_height * (right - left) / (bottom - top))
    return Window(left, top, right, bottom, panel_height, min(max(panel_width, min_width), max_width))


def extent_of(box: Tensor | None, mask: Tensor | None) -> NDArray[np.float32] | None:
    """The extent ``[4]`` XYXY of a box and a mask ``[H, W]`` together; None if there is neither."""
    extents = [box.detach().cpu().float().numpy()] if box is not None and box.isfinite().all() else []
    if mask is not None and mask.any():
        top, left, bottom, right = mask_extent(mask)
        extents.append(np.array([left, top, right, bottom], dtype=np.float32))
    if not extents:
        return None
    both = np.stack(extents)
    return np.concatenate([both[:, :2].min(axis=0), both[:, 2:].max(axis=0)])


def _grow(low: float, high: float, size: int) -> tuple[int, int]:
    """Add context on both sides of an interval, within 0 to ``size``."""
    low, high = min(max(low, 0), size), min(max(high, 0), size)
    margin = max(_GROWTH * (high - low), _MIN_GROWTH)
    return max(math.floor(low - margin), 0), min(math.ceil(high + margin), size)


def _widen(low: int, high: int, length: float, size: int) -> tuple[int, int]:
    """Make an interval at least ``length`` long around its middle, pushed into 0 to ``size``."""
    wanted = min(math.ceil(length), size)
    if high - low >= wanted:
        return low, high
    low = min(max((low + high - wanted) // 2, 0), size - wanted)
    return low, low + wanted
