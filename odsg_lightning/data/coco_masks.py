"""COCO segmentations: polygons, run-length encoding (RLE) as a list, and RLE as a compressed string."""

import reprlib
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from odsg_lightning.data.coco_checks import is_finite_number

Segmentation = list[list[float]] | dict[str, Any]
"""Polygons or RLE, as a COCO file has it."""


def segmentation_mask(segmentation: Segmentation, height: int, width: int) -> NDArray[np.bool_]:
    """Rasterise a segmentation at the size of its image.

    Args:
        segmentation: polygons or RLE.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Returns:
        ``[height, width]`` bool; True on the object. The union of the polygons where there are several.

    Raises:
        ValueError: it is malformed; the message says how.

    Example:
        >>> segmentation_mask([[0, 0, 2, 0, 2, 1, 0, 1]], height=2, width=3).astype(int)
        array([[1, 1, 0],
               [0, 0, 0]])
    """
    problem = segmentation_problem(segmentation, height, width)
    if problem:
        raise ValueError(f"{problem[0].upper()}{problem[1:]}.")
    if isinstance(segmentation, dict):
        runs = rle_counts(segmentation["counts"])
        foreground = np.arange(len(runs)) % 2 == 1  # runs alternate, background first, down the columns
        return np.ascontiguousarray(np.repeat(foreground, runs).reshape(width, height).T)
    polygons = mask_utils.frPyObjects([[float(value) for value in polygon] for polygon in segmentation], height, width)
    return np.asarray(mask_utils.decode(mask_utils.merge(polygons)), dtype=np.bool_)


def segmentation_problem(segmentation: Any, height: int, width: int) -> str | None:
    """Say what is wrong with a segmentation as it stands in the file; None if nothing is.

    Everything that could make the C code of pycocotools read or write out of bounds is caught here.
    """
    if isinstance(segmentation, dict):
        return _rle_problem(segmentation, height, width)
    if not isinstance(segmentation, list):
        return f"expected segmentation to be polygons or RLE, but got {reprlib.repr(segmentation)}"
    if not segmentation:
        return "expected segmentation to hold at least one polygon, but it is empty"
    for polygon in segmentation:
        if not isinstance(polygon, list) or not all(is_finite_number(value) for value in polygon):
            return f"expected each polygon to be a list of finite numbers, but got {reprlib.repr(polygon)}"
        if len(polygon) < 6 or len(polygon) % 2:
            return (
                "expected each polygon to have at least 3 points [x1, y1, x2, y2, x3, y3, ...], but got "
                f"{len(polygon)} numbers"
            )
        # Borders are overstepped a little in real data; a million pixels away takes a rasteriser gigabytes.
        if not all(-width <= x <= 2 * width for x in polygon[::2]) or not all(
            -height <= y <= 2 * height for y in polygon[1::2]
        ):
            return f"expected polygons near the image of height {height} and width {width}, but one lies far outside"
    return None


def rle_counts(counts: str | bytes | list[int]) -> list[int]:
    """Return the run lengths of an RLE, background first.

    Args:
        counts: the run lengths themselves, or pycocotools' compressed string: 5 bits a character, least significant
            first, differences to the run before the last one.

    Raises:
        ValueError: the string ends within a number, or holds a character that no encoder writes.
    """
    if isinstance(counts, list):
        return counts
    runs: list[int] = []
    value = shift = 0
    for character in counts.encode("utf-8") if isinstance(counts, str) else counts:
        chunk = character - 48
        if not 0 <= chunk < 64 or shift > 60:
            raise ValueError("invalid compressed RLE")
        value |= (chunk & 0x1F) << shift
        shift += 5
        if chunk & 0x20:  # more characters of this number follow
            continue
        if chunk & 0x10:  # negative: extend the sign
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("truncated compressed RLE")
    return runs


def _rle_problem(segmentation: dict[str, Any], height: int, width: int) -> str | None:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        return f"expected the size of its RLE to be [{height}, {width}], but got {reprlib.repr(size)}"
    if not isinstance(counts, str | bytes | list):
        return f"expected the counts of its RLE to be a list or a string, but got {reprlib.repr(counts)}"
    try:
        runs = rle_counts(counts)
    except ValueError as error:
        return f"expected the counts of its RLE to be what pycocotools writes, but: {error}"
    if not all(type(run) is int and run >= 0 for run in runs):
        return f"expected the counts of its RLE to be integers of at least 0, but got {reprlib.repr(runs)}"
    if sum(runs) != height * width:
        return f"expected the counts of its RLE to add up to {height * width} pixels, but got {sum(runs)}"
    if not any(chain(runs[1::2])):
        return "expected its RLE to cover at least one pixel, but its area is zero"
    return None
