"""Checks of a COCO file: each names the file, the record, what was expected and what came."""

import math
import re
import reprlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from odsg_lightning.data.coco_problems import BadRecordError
from odsg_lightning.errors import BrokenInputError
from odsg_lightning.files import read_json

MAX_BYTES = 2 * 2**30
"""Largest COCO file that is read: training sets of a million images have about half of it."""

MAX_INTEGER = 2**53
"""Largest id or length: what every reader of JSON keeps exactly, and an array of 64 bits holds."""

_BORDER = 1.0  # pixels: boxes of real COCO overstep the border by rounding
_RELATIVE = 1.1  # relative boxes overstep the border, too
_ENOUGH = 10  # boxes that are unlikely to be all valid as XYXY by chance
_CONVERT = "Make COCO JSON of such files: odsg convert"
Box = tuple[float, float, float, float]


def load_coco_json(path: Path) -> dict[str, list[Any]]:
    """Read the JSON file and check its outline: an object with the lists images, annotations and categories.

    Raises:
        MissingFileError: there is no such file.
        BrokenInputError: it is a folder, is unreadable, is too large, is not JSON, or lacks one of the lists. Other
            formats of annotations are named.
    """
    try:
        content = read_json(path, "a COCO JSON file", MAX_BYTES, strict=False)
    except BrokenInputError as error:
        known = _other_format(path)
        if known is None:
            raise
        raise BrokenInputError(f"Expected a COCO JSON file at {path}, but it is {known}.") from error
    if not isinstance(content, dict):
        raise BrokenInputError(
            f"Expected the top level of {path} to be an object with images, annotations and categories, but got a "
            f"{type(content).__name__}. Is it a file of detection results?"
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            got = f"got a {type(content[key]).__name__}" if key in content else f"it has only {sorted(content)}"
            raise BrokenInputError(f"Expected {path} to have a list named {key!r}, but {got}.")
    for key in ("images", "categories"):
        if not content[key]:
            raise BrokenInputError(f"Expected {path} to have at least one record in {key!r}, but the list is empty.")
    return content


def field(record: Any, key: str) -> Any:
    """Return a required field of a record."""
    if not isinstance(record, dict):
        raise BadRecordError("records that are no objects", f"expected an object, but got {reprlib.repr(record)}")
    if key not in record:
        raise BadRecordError(f"records without {key}", f"expected a field {key!r}, but it has only {sorted(record)}")
    return record[key]


def integer(record: Any, key: str, minimum: int | None = None) -> int:
    """Return a required field that must be an integer of at least ``minimum``; a table may have made it 1.0."""
    value = field(record, key)
    whole = whole_number(value)
    if whole is not None and abs(whole) > MAX_INTEGER:
        wanted = "within 2**53, up to which every reader of JSON keeps integers (renumber the records)"
    elif whole is None or (minimum is not None and whole < minimum):
        wanted = "an integer" if minimum is None else f"an integer of at least {minimum}"
    else:
        return whole
    raise BadRecordError(
        f"records whose {key} is no such number", f"expected {key} to be {wanted}, but got {reprlib.repr(value)}"
    )


def whole_number(value: Any) -> int | None:
    """Return a JSON number that is whole, written as an integer or not; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def crowd_flag(record: dict[str, Any]) -> bool:
    """Return ``iscrowd``, which exporters may leave out where it is 0."""
    flag = record.get("iscrowd", 0)
    value = flag if isinstance(flag, bool) else whole_number(flag)
    if value not in (0, 1):
        raise BadRecordError(
            "annotations whose iscrowd is neither 0 nor 1",
            f"expected iscrowd to be 0 or 1, but got {reprlib.repr(flag)}",
        )
    return bool(value)


def file_name(record: Any) -> str:
    """Return ``file_name``; it must stay inside the image folder on every operating system."""
    name = field(record, "file_name")
    if not isinstance(name, str) or not name:
        raise BadRecordError("images without a name", f"expected file_name to be a name, but got {reprlib.repr(name)}")
    for kind in (PurePosixPath, PureWindowsPath):
        path = kind(name)
        if path.anchor or ".." in path.parts:
            raise BadRecordError(
                "images whose name leads out of the folder",
                f"expected file_name to stay inside the image folder, but got {name!r}; give it relative to the "
                "folder, without '..'",
            )
    return name


def box_xyxy(record: dict[str, Any], height: int, width: int) -> tuple[Box, bool]:
    """Return ``bbox`` (``[x, y, width, height]``) as XYXY in pixels; and whether it had to be clipped to the image.

    Up to a pixel over the border, by which boxes of real COCO overstep it, is clipped without a word.
    """
    bbox = field(record, "bbox")
    if not is_bbox(bbox):
        raise BadRecordError(
            "boxes that are not four numbers",
            f"expected bbox to be 4 finite numbers [x, y, width, height], but got {reprlib.repr(bbox)}",
        )
    x, y, w, h = (float(value) for value in bbox)
    if w <= 0 or h <= 0:
        raise BadRecordError(
            "boxes without a size", f"expected bbox to have a positive width and height, but got {bbox}"
        )
    if max(bbox) <= 1 < max(height, width) and any(whole_number(value) is None for value in bbox):
        raise BadRecordError(
            "relative boxes", f"expected bbox to be in pixels, but got {bbox}, which is relative (0 to 1)"
        )
    x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    if x1 >= x2 or y1 >= y2:
        raise BadRecordError(
            "boxes outside their image",
            f"expected bbox [x, y, width, height] to lie inside the image of height {height} and width {width}, but "
            f"got {bbox}; are the coordinates absolute pixels of this image, and not XYXY?",
        )
    return (x1, y1, x2, y2), oversteps(bbox, height, width)


def is_bbox(bbox: Any) -> bool:
    """Return whether a JSON value is a list of four finite numbers."""
    return isinstance(bbox, list) and len(bbox) == 4 and all(is_finite_number(value) for value in bbox)


def oversteps(bbox: Sequence[float], height: int, width: int) -> bool:
    """Return whether ``[x, y, width, height]`` reaches more than a pixel over the border of the image."""
    x, y, w, h = bbox
    return min(x, y) < -_BORDER or x + w > width + _BORDER or y + h > height + _BORDER


def refuse_other_coordinates(source: Path, boxes: Sequence[tuple[Sequence[float], int, int]]) -> None:
    """Refuse a file whose boxes are all relative (0 to 1), or all XYXY: clipped, they would still be trained on.

    Args:
        source: the file.
        boxes: ``bbox`` of each annotation, with height and width of its image.

    Raises:
        BrokenInputError: says which.
    """
    if not boxes:
        return
    example = f"such as {list(boxes[0][0])} in an image of height {boxes[0][1]} and width {boxes[0][2]}"
    if all(max(bbox) <= _RELATIVE < max(height, width) for bbox, height, width in boxes):
        raise BrokenInputError(
            f"Expected boxes [x, y, width, height] in pixels, but those of {source} are relative (0 to 1), {example}. "
            "Multiply x and width by the image's width, y and height by its height."
        )
    as_xyxy = all(
        x1 < x2 <= width + _BORDER and y1 < y2 <= height + _BORDER and min(x1, y1) >= -_BORDER
        for (x1, y1, x2, y2), height, width in boxes
    )
    if as_xyxy and len(boxes) >= _ENOUGH and sum(oversteps(*box) for box in boxes) > len(boxes) / 4:
        raise BrokenInputError(
            f"Expected boxes [x, y, width, height], but those of {source} are XYXY [x1, y1, x2, y2], {example}: read "
            "as the former, many leave their image, and read as the latter, none does. Write x2 - x1 and y2 - y1 "
            "instead of x2 and y2."
        )


def is_finite_number(value: Any) -> bool:
    """Return whether a JSON value is a number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of more than 308 digits
        return False


def _other_format(path: Path) -> str | None:
    """Say which other format of annotations a file, or what lies in a folder, is in; None if that is not known."""
    try:
        if path.is_dir():
            kinds = {entry.suffix.lower() for entry in path.iterdir()} & {".xml", ".txt", ".yaml"}
            return f"a folder of {' and '.join(sorted(kinds))} files. {_CONVERT}" if kinds else None
        if not path.is_file():  # a pipe would be waited for
            return None
        with path.open("rb") as file:
            head = file.read(4096).decode("utf-8-sig", errors="replace").lstrip()
    except OSError:
        return None
    if head.startswith("<"):
        voc = re.search(r"<annotation[\s>]", head)
        return f"a Pascal VOC XML file. {_CONVERT}" if voc else "an XML or HTML file. Export COCO JSON instead"
    if re.match(r"\d+(?:[ \t]+-?\d*\.?\d+(?:[eE][+-]?\d+)?){4,}[ \t]*(?:[\r\n]|$)", head):
        return f"a YOLO label file. {_CONVERT}"
    if re.search(r"^(?:names|train|val)[ \t]*:", head, re.MULTILINE):
        return f"the YAML file of a YOLO data set. {_CONVERT}"
    return None
