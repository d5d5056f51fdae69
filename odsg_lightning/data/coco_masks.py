"""COCO segmentations: polygons, run-length encoding (RLE) as a list, and RLE as a compressed string."""

import reprlib
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from odsg_lightning.data.coco_checks import is_finite_number, whole_number

Segmentation = list[list[float]] | dict[str, Any]
"""Polygons or RLE, as a COCO file has it."""

_FLAT = 1e-6  # pixels off the line through a polygon's points that are rounding


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
        counts = segmentation["counts"]
    else:
        polygons = [[float(value) for value in polygon] for polygon in segmentation]
        # Not decoded by pycocotools: where NumPy 2 copies its arrays, a Ctrl-C becomes a TypeError.
        counts = mask_utils.merge(mask_utils.frPyObjects(polygons, height, width))["counts"].decode("ascii")
    runs = rle_counts(counts)
    foreground = np.arange(len(runs)) % 2 == 1  # runs alternate, background first, down the columns
    return np.ascontiguousarray(np.repeat(foreground, runs).reshape(width, height).T)


def plain_segmentation(value: Any) -> Any:
    """Return a segmentation in COCO's form where exporters write another one that means the same.

    A polygon may lack the brackets of the list around it; whole numbers of an RLE may be written as floats. What is
    neither is returned as it is: :func:`segmentation_problem` says what is wrong with it.
    """
    if isinstance(value, list) and value and all(is_finite_number(number) for number in value):
        return [value]
    if isinstance(value, dict):
        return {key: _whole(value[key]) if key in ("size", "counts") else value[key] for key in value}
    return value


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
        if max(polygon) <= 1 < max(height, width) and any(whole_number(value) is None for value in polygon):
            return f"expected polygons in pixels, but got {reprlib.repr(polygon)}, which is relative (0 to 1)"
        # Borders are overstepped a little in real data; a million pixels away takes a rasteriser gigabytes.
        if not all(-width <= x <= 2 * width for x in polygon[::2]) or not all(
            -height <= y <= 2 * height for y in polygon[1::2]
        ):
            return f"expected polygons near the image of height {height} and width {width}, but one lies far outside"
        if _is_flat(polygon):
            return f"expected each polygon to enclose an area, but got {reprlib.repr(polygon)}"
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


def _is_flat(polygon: list[float]) -> bool:
    """Return whether all points lie on one line, or are one point."""
    x0, y0 = polygon[:2]
    points = [(x - x0, y - y0) for x, y in zip(polygon[2::2], polygon[3::2], strict=True)]
    far_x, far_y = max(points, key=lambda point: abs(point[0]) + abs(point[1]))
    length = abs(far_x) + abs(far_y)
    return all(abs(far_x * y - far_y * x) <= _FLAT * length for x, y in points)


def _whole(values: Any) -> Any:
    """Return a list whose whole numbers are integers; anything else as it is."""
    if not isinstance(values, list):
        return values
    return [value if (whole := whole_number(value)) is None else whole for value in values]


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
