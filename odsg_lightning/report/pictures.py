"""The strip of an object as the page shows it: its panels in two rows, which stand side by side where there is room."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from odsg_lightning.names import PARAMETERS
from odsg_lightning.records.record import ObjectRow
from odsg_lightning.text import number
from odsg_lightning.viz.packing import as_webp

PANELS = ("photograph", *PARAMETERS, "object alone", "without the object")
"""What the panels of a strip show, in their order; a strip without the last two is of an earlier version."""

# How odsg_lightning.viz.strip lays out a strip; it loads torch, so a test holds the two together.
_MARGIN, _SPACE, _TOP, _BELOW = 12, 8, 44, 90
_GROUND = (24, 26, 31)
_MIN_SIDE = 100


@dataclass(frozen=True)
class Row:
    """A picture of one or several panels.

    Attributes:
        url: ``data:`` with the picture.
        width: in pixels.
        height: in pixels.
        alt: the picture in words.
        captions: name and value of each panel; empty if the picture has captions of its own.
    """

    url: str
    width: int
    height: int
    alt: str
    captions: tuple[tuple[str, str], ...] = ()


def strip_rows(content: bytes, row: ObjectRow, whose: str) -> list[Row]:
    """Cut a strip into two rows of panels, without its title and legend, which the page has as text.

    Args:
        content: the strip, WebP that decodes.
        row: its object.
        whose: name of the record, for those who hear the picture.

    Returns:
        Two rows; a picture that is laid out in another way is one row, whole and as it was.
    """
    with Image.open(io.BytesIO(content), formats=("WEBP",)) as opened:
        picture = opened.convert("RGB")
    panels = panel_columns(np.asarray(picture))
    if len(panels) not in (len(PANELS), len(PANELS) - 2):
        shares = ", ".join(f"{name} {value}" for name, value in zip(PARAMETERS, _shares(row, "object"), strict=True))
        alt = f"{whose}: {row.category}, photograph and saliency maps. Share of each map on the object: {shares}."
        return [Row(_url(content), picture.width, picture.height, alt)]
    captions = list(zip(PANELS, ["", *_map_captions(row), *_hidden_captions(row)], strict=True))[: len(panels)]
    middle = len(panels) // 2
    return [
        _row(picture, panels[part], captions[part], f"{whose}: {row.category}")
        for part in (slice(middle), slice(middle, None))
    ]


def panel_columns(pixels: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Return where a strip's panels begin and end, in pixels from the left; nothing if it is laid out in another way.

    Their number is not stored: it is the largest for which all the spaces between panels of equal width are empty.

    Args:
        pixels: ``[height, width, 3]``, the strip.
    """
    height, width = pixels.shape[:2]
    if height < _TOP + _MIN_SIDE + _BELOW:
        return []
    # Of each column, in every eighth row, how far it is from the empty ground: a lossy picture is never exactly empty.
    ground = np.abs(pixels[_TOP : height - _BELOW : 8].astype(np.int16) - _GROUND).mean(axis=(0, 2))
    for count in range((width - 2 * _MARGIN) // (_MIN_SIDE + _SPACE), 1, -1):
        step, rest = divmod(width - 2 * _MARGIN + _SPACE, count)
        spaces = [_MARGIN + index * step - _SPACE for index in range(1, count)]
        if rest == 0 and all(ground[left + 2 : left + _SPACE - 2].mean() < 8 for left in spaces):
            return [(_MARGIN + index * step, _MARGIN + (index + 1) * step - _SPACE) for index in range(count)]
    return []


def _row(
    picture: Image.Image, panels: Sequence[tuple[int, int]], captions: Sequence[tuple[str, str]], whose: str
) -> Row:
    part = picture.crop((panels[0][0], _TOP, panels[-1][1], picture.height - _BELOW))
    alt = f"{whose}, {', '.join(name for name, _ in captions)}"
    return Row(_url(as_webp(part)), part.width, part.height, alt, tuple(captions))


def _map_captions(row: ObjectRow) -> list[str]:
    return [
        f"object {on_object}, near {near}"
        for on_object, near in zip(_shares(row, "object"), _shares(row, "near"), strict=True)
    ]


def _shares(row: ObjectRow, region: str) -> list[str]:
    return [number(None if row.iof is None else row.iof[f"{p}/{region}"], 2, missing="undefined") for p in PARAMETERS]


def _hidden_captions(row: ObjectRow) -> list[str]:
    """What was detected under the replacement that counts, which is the one that the strip shows."""
    captions = []
    for value, counts in (("sufficiency", min), ("necessity", max)):
        again = [found for name, found in row.detected_again.items() if name.startswith(f"{value}/")]
        judged = [found for found in again if found is not None]
        if not judged:
            captions.append("not judged" if again else "not asked")
            continue
        shown = counts(judged, key=lambda found: found["score"])
        captions.append("not detected" if shown["shift"] is None else f"score {shown['score']:.2f}")
    return captions


def _url(content: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(content).decode("ascii")
