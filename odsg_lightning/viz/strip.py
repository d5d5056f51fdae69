"""One object as a strip: the photograph with its boxes, what each of the five numbers looks at, what hiding does.

Every strip of the same object has the same size and shows the same part of the image, so that a slider over training
time plays it like a film.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from odsg_lightning.names import PARAMETERS
from odsg_lightning.saliency.masks import defined_maps
from odsg_lightning.viz.panels import (
    BACKGROUND,
    DETECTED,
    FOREGROUND,
    GROUND_TRUTH,
    NAME,
    QUIET_TEXT,
    SEGMENTATION,
    SMALL,
    TEXT,
    TITLE,
    Color,
    Pixels,
    as_array,
    colors,
    font,
    grey_version,
    labelled,
    outline,
    overlay,
    photograph,
    with_boxes,
)
from odsg_lightning.viz.window import Window, extent_of, window_around

HIDDEN_NAMES = ("object alone", "without the object")
"""The two panels behind the maps."""

_LINES = (
    (GROUND_TRUTH, 2, True, "ground-truth box"),
    (DETECTED, 2, False, "detected box"),
    (FOREGROUND, 2, False, "foreground of the map"),
    (SEGMENTATION, 1, False, "ground-truth mask"),
)
"""Colour, width, whether it is dashed, and meaning."""
_STACKED = (0, 5, 1, 3, 2, 4, 6, 7)
"""The panels row by row where two stand side by side."""
_MARGIN, _SPACE = 12, 8
_MIN_WIDTH = 168  # of a panel: a caption fits
_SAMPLE, _BAR, _MAXIMUM = 34, 82, "maximum of the map"  # of the legend: where text begins behind a line and the bar


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
    stacked: bool = False,
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
        stacked: two panels a row, for pages that show pictures small: photograph and score, x_min and x_max, y_min and
            y_max, the hidden pixels.

    Returns:
        ``[height, width, 3]`` uint8 RGB. Its size depends on the size of the image, ``panel_height``, ``stacked``, the
        ground-truth box and the mask alone (without these two, on the detected box).

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
    strip = _Strip(window, title, 1 + len(PARAMETERS) + len(named), lines, stacked)
    shown = photograph(image, window)
    strip.panel(0, with_boxes(shown, window, ground_truth_box, detected_box), "photograph", "")
    rim = None if mask is None else outline(window.show_mask(as_array(mask)))
    grey = grey_version(shown)
    missed = maps is None and detected_box is None
    defined = [False] * len(PARAMETERS) if maps is None else defined_maps(maps).tolist()
    for i, name in enumerate(PARAMETERS):
        saliency = None if maps is None else as_array(maps[i])
        if saliency is None or not defined[i]:
            picture = labelled(grey, "missed" if missed else "undefined")
        else:
            picture = overlay(grey, saliency, window)
            if foreground is not None:
                picture[outline(window.show_mask(as_array(foreground[i])), width=2)] = FOREGROUND
            if rim is not None:
                picture[rim] = SEGMENTATION
            if not window.contains_peak(saliency):
                picture = labelled(picture, "maximum outside this view", at_bottom=True)
        strip.panel(1 + i, picture, name, captions[i] if captions is not None else "")
    for i, (name, item) in enumerate(named, start=1 + len(PARAMETERS)):
        if missed or item.picture is None:
            strip.panel(i, labelled(grey, "missed" if missed else item.words), name, "")
        else:
            picture = with_boxes(photograph(item.picture, window), window, None, item.box)
            strip.panel(i, picture, name, item.words)
    return np.asarray(strip.canvas)


class _Strip:
    """The canvas and where things go on it: title, panels with name and caption below each, the legend."""

    def __init__(
        self, window: Window, title: str, panels: int, lines: Sequence[tuple[Color, int, bool, str]], stacked: bool
    ) -> None:
        self.window = window
        self.columns = 2 if stacked else panels
        self.order = _STACKED if stacked else tuple(range(panels))
        width = 2 * _MARGIN + self.columns * window.panel_width + (self.columns - 1) * _SPACE
        titles = title.split(": ", 1) if stacked else [title]
        self.top = _MARGIN + (2 if stacked else 1) * (TITLE + _SPACE) + _SPACE
        self.pitch = window.panel_height + NAME + SMALL + 4 * _SPACE
        key = self.top + self.pitch * -(-panels // self.columns)
        places = _legend_places([meaning for *_, meaning in lines], width - _MARGIN)
        height = key + (places[-1][1] + 1) * (SMALL + _SPACE) + _MARGIN
        self.canvas = Image.new("RGB", (width, height), BACKGROUND)
        self.draw = ImageDraw.Draw(self.canvas)
        for row, line in enumerate(titles):
            y = _MARGIN + row * (TITLE + _SPACE)
            self.text(_MARGIN, y, " ".join(line.split()), TITLE, TEXT, width - 2 * _MARGIN)
        self.legend(lines, [(x, key + row * (SMALL + _SPACE)) for x, row in places])

    def text(self, x: float, y: float, text: str, size: int, color: Color, width: float) -> None:
        """Write one line, at most ``width`` pixels wide."""
        self.draw.text((x, y), _fit(text, font(size), width), fill=color, font=font(size))

    def panel(self, index: int, picture: Pixels, name: str, caption: str) -> None:
        """Put a picture into its place, with its name and caption."""
        row, column = divmod(self.order.index(index), self.columns)
        left, width = _MARGIN + column * (self.window.panel_width + _SPACE), self.window.panel_width
        top = self.top + row * self.pitch
        below = top + self.window.panel_height + _SPACE
        self.canvas.paste(Image.fromarray(picture), (left, top))
        self.text(left, below, name, NAME, TEXT, width)
        self.text(left, below + NAME + _SPACE // 2, caption, SMALL, QUIET_TEXT, width)

    def legend(self, lines: Sequence[tuple[Color, int, bool, str]], places: Sequence[tuple[float, int]]) -> None:
        """Say what the lines and colours mean."""
        for (color, width, dashed, meaning), (x, y) in zip(lines, places, strict=False):
            dash = ((0, 7), (11, 18), (22, 28)) if dashed else ((0, 28),)
            middle = y + SMALL // 2 + 1
            for start, end in dash:
                self.draw.line([(x + start, middle), (x + end - 1, middle)], fill=color, width=width)
            self.text(x + _SAMPLE, y, meaning, SMALL, QUIET_TEXT, 1e6)
        x, y = places[-1]
        bar = np.broadcast_to(colors()[np.linspace(0, 255, 64).astype(int)], (10, 64, 3))
        self.text(x, y, "0", SMALL, QUIET_TEXT, 1e6)
        self.canvas.paste(Image.fromarray(np.ascontiguousarray(bar)), (round(x) + 12, y + SMALL // 2 - 4))
        self.text(x + _BAR, y, _MAXIMUM, SMALL, QUIET_TEXT, 1e6)


def _legend_places(meanings: Sequence[str], end: float) -> list[tuple[float, int]]:
    """Return where each meaning, and the bar behind them, stands in the legend: x in pixels, and its line."""
    lengths = [_SAMPLE + font(SMALL).getlength(meaning) for meaning in meanings]
    lengths.append(_BAR + font(SMALL).getlength(_MAXIMUM))
    places: list[tuple[float, int]] = []
    x, row = float(_MARGIN), 0
    for length in lengths:
        if x > _MARGIN and x + length > end:
            x, row = float(_MARGIN), row + 1
        places.append((x, row))
        x += length + 3 * _SPACE
    return places


def _check_shape(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    """Refuse a tensor of another shape."""
    if tensor is not None and tuple(tensor.shape) != shape:
        raise ValueError(f"Expected {name} of shape {list(shape)}, but got {list(tensor.shape)}.")


def _fit(text: str, face: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Cut a text with an ellipsis so that it is at most ``width`` pixels wide."""
    if face.getlength(text) <= width:
        return text
    fitting = bisect_right(range(len(text)), width, key=lambda length: face.getlength(text[:length] + "…"))
    return text[: max(fitting - 1, 0)].rstrip() + "…"
