"""One object as a strip: the photograph with its boxes, what each of the five numbers looks at, what hiding does.

Every strip of the same object has the same size and shows the same part of the image, so that a slider over training
time plays it like a film.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from odsg_lightning.names import PARAMETERS
from odsg_lightning.saliency.masks import defined_maps
from odsg_lightning.viz.window import Window, extent_of, window_around

Pixels = NDArray[np.uint8]
Color = tuple[int, int, int]

# Green and magenta differ in brightness too, and the lines in style, for those who do not tell the hues apart.
GROUND_TRUTH: Color = (0, 230, 118)
DETECTED: Color = (255, 64, 255)
FOREGROUND: Color = (0, 229, 255)
SEGMENTATION: Color = (255, 255, 255)
BACKGROUND: Color = (24, 26, 31)
TEXT: Color = (238, 238, 238)
QUIET_TEXT: Color = (170, 174, 182)

HIDDEN_NAMES = ("object alone", "without the object")
"""The two panels behind the maps."""

_LINES = (
    (GROUND_TRUTH, 2, True, "ground-truth box"),
    (DETECTED, 2, False, "detected box"),
    (FOREGROUND, 2, False, "foreground of the map"),
    (SEGMENTATION, 1, False, "ground-truth mask"),
)
"""Colour, width, whether it is dashed, and meaning."""
_MARGIN, _SPACE = 12, 8
_TITLE, _NAME, _SMALL = 16, 14, 12  # font sizes in pixels
_MIN_WIDTH = 168  # of a panel: a caption fits


@dataclass(frozen=True, eq=False)
class HiddenPixels:
    """What the detector was shown with pixels hidden, and what it said.

    Attributes:
        words: what it said, or why it was not asked.
        picture: ``[3, H, W]`` RGB, 0 to 255; None if it was not asked.
        box: ``[4]`` XYXY in pixels, what it detected again; None if nothing.
    """

    words: str = "not judged"
    picture: Tensor | None = None
    box: Tensor | None = None


def object_strip(
    image: Tensor,
    maps: Tensor | None,
    foreground: Tensor | None,
    *,
    ground_truth_box: Tensor | None,
    detected_box: Tensor | None,
    mask: Tensor | None,
    title: str,
    captions: Sequence[str] | None = None,
    hidden: Sequence[HiddenPixels] | None = (HiddenPixels(), HiddenPixels()),
    panel_height: int = 192,
) -> Pixels:
    """Draw the strip of one object.

    Each map is coloured from 0 to its own largest visible value; if its maximum lies outside the part of the image
    that is shown, the colours refer to that maximum and the panel says so.

    Args:
        image: ``[3, H, W]`` RGB, 0 to 255.
        maps: ``[5, H, W]`` saliency, in the order of :data:`~odsg_lightning.names.PARAMETERS`, undefined ones included
            (:func:`~odsg_lightning.saliency.masks.defined_maps`). None if there are none.
        foreground: ``[5, H, W]`` bool, the binarised maps, or None.
        ground_truth_box: ``[4]`` XYXY in pixels, or None.
        detected_box: ``[4]`` XYXY in pixels; None if the object was missed.
        mask: ``[H, W]`` bool ground-truth segmentation, or None.
        title: the line on top; cut with an ellipsis where it does not fit.
        captions: a short string for each map, or None.
        hidden: all but the object, and the object; None for a strip without these two panels, of a detection that no
            ground truth belongs to.
        panel_height: height of a panel in pixels, at least 160.

    Returns:
        ``[height, width, 3]`` uint8 RGB. Its size depends on the size of the image, ``panel_height``, the ground-truth
        box and the mask alone (without these two, on the detected box).

    Raises:
        ValueError: if the shapes do not fit together or ``panel_height`` is below 160.
    """
    _check_shape("image", image, (3, *image.shape[-2:]))
    size = tuple(image.shape[1:])
    _check_shape("maps", maps, (5, *size))
    _check_shape("foreground", foreground, (5, *size))
    _check_shape("mask", mask, size)
    _check_shape("ground_truth_box", ground_truth_box, (4,))
    _check_shape("detected_box", detected_box, (4,))
    if captions is not None and len(captions) != len(PARAMETERS):
        raise ValueError(f"Expected {len(PARAMETERS)} captions, but got {len(captions)}.")
    lines = _LINES[1:2] if hidden is None else _LINES
    if hidden is not None and len(hidden) != len(HIDDEN_NAMES):
        raise ValueError(f"Expected {len(HIDDEN_NAMES)} hidden pictures, but got {len(hidden)}.")
    named = list(zip(HIDDEN_NAMES, hidden or (), strict=False))
    for name, item in named:
        _check_shape(f"the picture of {name!r}", item.picture, (3, *size))
        _check_shape(f"the box of {name!r}", item.box, (4,))
    if panel_height < 160:
        raise ValueError(f"Expected panel_height to be at least 160, but got {panel_height}.")
    extent = extent_of(ground_truth_box, mask)
    if extent is None:
        extent = extent_of(detected_box, None)
    window = window_around((image.shape[1], image.shape[2]), extent, panel_height, _MIN_WIDTH)
    strip = _Strip(window, title, 1 + len(PARAMETERS) + len(named))
    photograph = _photograph(image, window)
    strip.panel(0, _with_boxes(photograph, window, ground_truth_box, detected_box), "photograph", "")
    outline = None if mask is None else _outline(window.show_mask(_array(mask)))
    grey = _grey(photograph)
    missed = maps is None and detected_box is None
    defined = [False] * len(PARAMETERS) if maps is None else defined_maps(maps).tolist()
    for i, name in enumerate(PARAMETERS):
        saliency = None if maps is None else _array(maps[i])
        if saliency is None or not defined[i]:
            picture = _labelled(grey, "missed" if missed else "undefined")
        else:
            picture = _overlay(grey, saliency, window)
            if foreground is not None:
                picture[_outline(window.show_mask(_array(foreground[i])), width=2)] = FOREGROUND
            if outline is not None:
                picture[outline] = SEGMENTATION
            if not window.contains_peak(saliency):
                picture = _labelled(picture, "maximum outside this view", at_bottom=True)
        strip.panel(1 + i, picture, name, captions[i] if captions is not None else "")
    for i, (name, item) in enumerate(named, start=1 + len(PARAMETERS)):
        if missed or item.picture is None:
            strip.panel(i, _labelled(grey, "missed" if missed else item.words), name, "")
        else:
            picture = _with_boxes(_photograph(item.picture, window), window, None, item.box)
            strip.panel(i, picture, name, item.words)
    strip.legend(lines)
    return np.asarray(strip.canvas)


class _Strip:
    """The canvas and where things go on it: title, panels in a row, name and caption below each, the legend."""

    def __init__(self, window: Window, title: str, panels: int) -> None:
        self.window = window
        self.top = _MARGIN + _TITLE + 2 * _SPACE
        self.below = self.top + window.panel_height + _SPACE
        self.key = self.below + _NAME + _SMALL + 3 * _SPACE
        width = 2 * _MARGIN + panels * window.panel_width + (panels - 1) * _SPACE
        self.canvas = Image.new("RGB", (width, self.key + _SMALL + _SPACE + _MARGIN), BACKGROUND)
        self.draw = ImageDraw.Draw(self.canvas)
        self.text(_MARGIN, _MARGIN, " ".join(title.split()), _TITLE, TEXT, width - 2 * _MARGIN)

    def text(self, x: float, y: float, text: str, size: int, color: Color, width: float) -> None:
        """Write one line, at most ``width`` pixels wide."""
        self.draw.text((x, y), _fit(text, _font(size), width), fill=color, font=_font(size))

    def panel(self, index: int, picture: Pixels, name: str, caption: str) -> None:
        """Put a picture into its column, with its name and caption."""
        left, width = _MARGIN + index * (self.window.panel_width + _SPACE), self.window.panel_width
        self.canvas.paste(Image.fromarray(picture), (left, self.top))
        self.text(left, self.below, name, _NAME, TEXT, width)
        self.text(left, self.below + _NAME + _SPACE // 2, caption, _SMALL, QUIET_TEXT, width)

    def legend(self, lines: Sequence[tuple[Color, int, bool, str]]) -> None:
        """Say what the lines and colours mean."""
        x, middle = float(_MARGIN), self.key + _SMALL // 2 + 1
        for color, width, dashed, meaning in lines:
            dash = ((0, 7), (11, 18), (22, 28)) if dashed else ((0, 28),)
            for start, end in dash:
                self.draw.line([(x + start, middle), (x + end - 1, middle)], fill=color, width=width)
            self.text(x + 34, self.key, meaning, _SMALL, QUIET_TEXT, 1e6)
            x += 34 + _font(_SMALL).getlength(meaning) + 3 * _SPACE
        bar = np.broadcast_to(_colors()[np.linspace(0, 255, 64).astype(int)], (10, 64, 3))
        self.text(x, self.key, "0", _SMALL, QUIET_TEXT, 1e6)
        self.canvas.paste(Image.fromarray(np.ascontiguousarray(bar)), (round(x) + 12, middle - 5))
        self.text(x + 82, self.key, "maximum of the map", _SMALL, QUIET_TEXT, 1e6)


def _check_shape(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    """Refuse a tensor of another shape."""
    if tensor is not None and tuple(tensor.shape) != shape:
        raise ValueError(f"Expected {name} of shape {list(shape)}, but got {list(tensor.shape)}.")


def _array(tensor: Tensor) -> NDArray[Any]:
    """A tensor as an array on the CPU, bool or float32."""
    tensor = tensor.detach().cpu()
    return (tensor if tensor.dtype == torch.bool else tensor.float()).numpy()


def _photograph(image: Tensor, window: Window) -> Pixels:
    """The part of an image ``[3, H, W]`` that the window shows."""
    shown: Pixels = window.show(_array(image).transpose(1, 2, 0).clip(0, 255).astype(np.uint8))
    return shown


def _with_boxes(photograph: Pixels, window: Window, ground_truth: Tensor | None, detected: Tensor | None) -> Pixels:
    """A picture with boxes; the dashed ground truth on top, so that both show where they coincide."""
    picture = Image.fromarray(photograph)
    draw = ImageDraw.Draw(picture)
    for box, color, dash in ((detected, DETECTED, 0), (ground_truth, GROUND_TRUTH, 6)):
        if box is not None:
            x_min, y_min, x_max, y_max = window.place(np.nan_to_num(_array(box)))
            x_max, y_max = max(x_min, x_max), max(y_min, y_max)
            for y in (y_min, y_max):
                _line(draw, (x_min, y, x_max, y), color, dash)
            for x in (x_min, x_max):
                _line(draw, (x, y_min, x, y_max), color, dash)
    return np.where(window.inside[..., None], np.asarray(picture), photograph)


def _line(draw: ImageDraw.ImageDraw, line: tuple[int, int, int, int], color: Color, dash: int) -> None:
    """A horizontal or vertical line two pixels wide, dashed if ``dash`` is not 0."""
    x, y, x_end, y_end = line
    horizontal = y == y_end
    length = x_end - x if horizontal else y_end - y
    step = 2 * dash or length + 2
    for start in range(0, length + 1, step):
        end = min(start + (dash or length + 2) - 1, length + 1)
        where = (x + start, y, x + end, y + 1) if horizontal else (x, y + start, x + 1, y + end)
        draw.rectangle(where, fill=color)


def _overlay(grey: Pixels, saliency: NDArray[np.float32], window: Window) -> Pixels:
    """Colour a map over the grey photograph: the photograph shows through where the map is low."""
    shown = window.show(saliency)
    peak = shown.max() if window.contains_peak(saliency) else saliency.max()
    value = np.clip(shown / max(float(peak), np.finfo(np.float32).tiny), 0, 1)
    opacity = np.clip(0.15 + 1.5 * value, 0, 1)[..., None] * window.inside[..., None]
    color = _colors()[np.round(255 * value).astype(np.intp)]
    blended: Pixels = np.round(opacity * color + (1 - opacity) * grey).astype(np.uint8)
    return blended


def _grey(photograph: Pixels) -> Pixels:
    """A dim grey version, so that the colours of a map stand out."""
    luminance = photograph @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return np.repeat((0.6 * luminance)[..., None], 3, axis=2).astype(np.uint8)


def _labelled(picture: Pixels, words: str, *, at_bottom: bool = False) -> Pixels:
    """Write words on a dark plate, in the middle of a picture or at its bottom."""
    canvas = Image.fromarray(picture)
    draw, size = ImageDraw.Draw(canvas), _SMALL if at_bottom else _TITLE
    half_width, half_height = _font(size).getlength(words) / 2 + 6, size / 2 + 5
    x, y = canvas.width / 2, canvas.height - half_height - 4 if at_bottom else canvas.height / 2
    draw.rectangle((x - half_width, y - half_height, x + half_width, y + half_height), fill=BACKGROUND)
    draw.text((x, y), words, fill=TEXT, font=_font(size), anchor="mm")
    return np.array(canvas)


def _outline(mask: NDArray[np.bool_], width: int = 1) -> NDArray[np.bool_]:
    """The inner rim of a mask, ``width`` pixels thick; the border of the picture is no rim."""
    inner = mask
    for _ in range(width):
        padded = np.pad(inner, 1, mode="edge")
        inner = inner & padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
    return mask & ~inner


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Cut a text with an ellipsis so that it is at most ``width`` pixels wide."""
    if font.getlength(text) <= width:
        return text
    fitting = bisect_right(range(len(text)), width, key=lambda length: font.getlength(text[:length] + "…"))
    return text[: max(fitting - 1, 0)].rstrip() + "…"


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@lru_cache
def _colors() -> NDArray[np.uint8]:
    """A perceptually uniform colour map as a table ``[256, 3]``."""
    return np.round(255 * matplotlib.colormaps["inferno"](np.arange(256))[:, :3]).astype(np.uint8)
