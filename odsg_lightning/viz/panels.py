"""One panel of a picture of an object: its photograph with boxes, or a map over it."""

from functools import lru_cache
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from odsg_lightning.viz.window import Window

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

TITLE, NAME, SMALL = 16, 14, 12
"""Font sizes in pixels."""


def photograph_panel(image: Tensor, window: Window, ground_truth: Tensor | None, detected: Tensor | None) -> Pixels:
    """Draw the photograph ``[3, H, W]``, 0 to 255, with an object's boxes ``[4]`` XYXY in pixels, or without."""
    return with_boxes(photograph(image, window), window, ground_truth, detected)


def map_panel(image: Tensor, saliency: Tensor, window: Window, mask: Tensor) -> Pixels:
    """Draw a defined map ``[H, W]`` over the photograph, with the outline of the object's mask ``[H, W]``."""
    values = as_array(saliency)
    picture = overlay(grey_version(photograph(image, window)), values, window)
    picture[outline(window.show_mask(as_array(mask)))] = SEGMENTATION
    return picture if window.contains_peak(values) else labelled(picture, "maximum outside", at_bottom=True)


def as_array(tensor: Tensor) -> NDArray[Any]:
    """A tensor as an array on the CPU, bool or float32."""
    tensor = tensor.detach().cpu()
    return (tensor if tensor.dtype == torch.bool else tensor.float()).numpy()


def photograph(image: Tensor, window: Window) -> Pixels:
    """The part of an image ``[3, H, W]`` that the window shows."""
    shown: Pixels = window.show(as_array(image).transpose(1, 2, 0).clip(0, 255).astype(np.uint8))
    return shown


def with_boxes(photograph: Pixels, window: Window, ground_truth: Tensor | None, detected: Tensor | None) -> Pixels:
    """A picture with boxes; the dashed ground truth on top, so that both show where they coincide."""
    picture = Image.fromarray(photograph)
    draw = ImageDraw.Draw(picture)
    for box, color, dash in ((detected, DETECTED, 0), (ground_truth, GROUND_TRUTH, 6)):
        if box is not None:
            x_min, y_min, x_max, y_max = window.place(np.nan_to_num(as_array(box)))
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


def overlay(grey: Pixels, saliency: NDArray[np.float32], window: Window) -> Pixels:
    """Colour a map over the grey photograph: the photograph shows through where the map is low."""
    shown = window.show(saliency)
    peak = shown.max() if window.contains_peak(saliency) else saliency.max()
    value = np.clip(shown / max(float(peak), np.finfo(np.float32).tiny), 0, 1)
    opacity = np.clip(0.15 + 1.5 * value, 0, 1)[..., None] * window.inside[..., None]
    color = colors()[np.round(255 * value).astype(np.intp)]
    blended: Pixels = np.round(opacity * color + (1 - opacity) * grey).astype(np.uint8)
    return blended


def grey_version(photograph: Pixels) -> Pixels:
    """A dim grey version, so that the colours of a map stand out."""
    luminance = photograph @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return np.repeat((0.6 * luminance)[..., None], 3, axis=2).astype(np.uint8)


def labelled(picture: Pixels, words: str, *, at_bottom: bool = False) -> Pixels:
    """Write words on a dark plate, in the middle of a picture or at its bottom."""
    canvas = Image.fromarray(picture)
    draw, size = ImageDraw.Draw(canvas), SMALL if at_bottom else TITLE
    half_width, half_height = font(size).getlength(words) / 2 + 6, size / 2 + 5
    x, y = canvas.width / 2, canvas.height - half_height - 4 if at_bottom else canvas.height / 2
    draw.rectangle((x - half_width, y - half_height, x + half_width, y + half_height), fill=BACKGROUND)
    draw.text((x, y), words, fill=TEXT, font=font(size), anchor="mm")
    return np.array(canvas)


def outline(mask: NDArray[np.bool_], width: int = 1) -> NDArray[np.bool_]:
    """The inner rim of a mask, ``width`` pixels thick; the border of the picture is no rim."""
    inner = mask
    for _ in range(width):
        padded = np.pad(inner, 1, mode="edge")
        inner = inner & padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
    return mask & ~inner


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font of every text, so many pixels high."""
    return ImageFont.load_default(size)


@lru_cache
def colors() -> NDArray[np.uint8]:
    """A perceptually uniform colour map as a table ``[256, 3]``."""
    return np.round(255 * matplotlib.colormaps["inferno"](np.arange(256))[:, :3]).astype(np.uint8)
