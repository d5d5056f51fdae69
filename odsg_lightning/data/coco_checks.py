"""Checks of a COCO file: each names the file, the record, what was expected and what came."""

import math
import os
import reprlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from odsg_lightning.errors import BrokenInputError, MissingFileError
from odsg_lightning.files import read_json

MAX_BYTES = 2 * 2**30
"""Largest COCO file that is read: training sets of a million images have about half of it."""

_SHOWN = 10
_BORDER = 1.0  # pixels: boxes of real COCO overstep the border by rounding
Box = tuple[float, float, float, float]


class BadRecordError(ValueError):
    """A record that cannot be used; the message says why."""


class Problems:
    """What is wrong with the records of one file, collected so that all of it is reported at once."""

    def __init__(self, source: Path) -> None:
        """Collect problems of the file ``source``."""
        self.source = source
        self.lines: list[str] = []
        self.fatal = False
        self._missing_files = 0

    def add(self, record: str, problem: object, *, fatal: bool = False, missing_file: bool = False) -> None:
        """Note a problem of a record; a fatal one cannot be cured by leaving the record out."""
        self.lines.append(f"{record}: {problem}")
        self.fatal |= fatal
        self._missing_files += missing_file

    def __str__(self) -> str:
        """The first ten problems, one a line, and the count of the rest."""
        return list_problems(self.lines)

    def error(self) -> BrokenInputError:
        """Return the error to raise: MissingFileError if image files are missing and nothing else is wrong."""
        cure = "Correct the file" if self.fatal else 'Correct the file, or leave these records out: bad_records="skip"'
        message = (
            f"Expected all records of {self.source} to be usable, but got {len(self.lines)} "
            f"problem{'s' * (len(self.lines) != 1)}. {cure}.\n{self}"
        )
        only_files = self._missing_files == len(self.lines)
        return MissingFileError(message) if only_files else BrokenInputError(message)


def list_problems(lines: Sequence[str]) -> str:
    """Join the first ten problems, one a line, and the count of the rest."""
    rest = [f"... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n".join(f"  - {line}" for line in [*lines[:_SHOWN], *rest])


def load_coco_json(path: Path) -> dict[str, list[Any]]:
    """Read the JSON file and check its outline: an object with the lists images, annotations and categories.

    Raises:
        MissingFileError: there is no such file.
        BrokenInputError: it is a folder, is unreadable, is too large, is not JSON, or lacks one of the lists.
    """
    content = read_json(path, "a COCO JSON file", MAX_BYTES, strict=False)
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
        raise BadRecordError(f"expected an object, but got {reprlib.repr(record)}")
    if key not in record:
        raise BadRecordError(f"expected a field {key!r}, but it has only {sorted(record)}")
    return record[key]


def integer(record: Any, key: str, minimum: int | None = None) -> int:
    """Return a required field that must be an integer of at least ``minimum``."""
    value = field(record, key)
    if type(value) is not int or (minimum is not None and value < minimum):
        wanted = "an integer" if minimum is None else f"an integer of at least {minimum}"
        raise BadRecordError(f"expected {key} to be {wanted}, but got {reprlib.repr(value)}")
    return value


def crowd_flag(record: dict[str, Any]) -> bool:
    """Return ``iscrowd``, which exporters may leave out where it is 0."""
    value = record.get("iscrowd", 0)
    if value not in (0, 1) or not isinstance(value, int):
        raise BadRecordError(f"expected iscrowd to be 0 or 1, but got {reprlib.repr(value)}")
    return bool(value)


def file_name(record: Any) -> str:
    """Return ``file_name``; it must stay inside the image folder on every operating system."""
    name = field(record, "file_name")
    if not isinstance(name, str) or not name:
        raise BadRecordError(f"expected file_name to be a name, but got {reprlib.repr(name)}")
    for kind in (PurePosixPath, PureWindowsPath):
        path = kind(name)
        if path.anchor or ".." in path.parts:
            raise BadRecordError(
                f"expected file_name to stay inside the image folder, but got {name!r}; give it relative to the "
                "folder, without '..'"
            )
    return name


def file_exists(folder: Path, name: str) -> bool:
    """Return whether there is a file; a name that no file system takes is a missing file, too."""
    return os.path.isfile(folder / name)


def box_xyxy(record: dict[str, Any], height: int, width: int) -> Box:
    """Return ``bbox`` (``[x, y, width, height]``) as XYXY in pixels, clipped to the image."""
    bbox = field(record, "bbox")
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(is_finite_number(value) for value in bbox):
        raise BadRecordError(
            f"expected bbox to be 4 finite numbers [x, y, width, height], but got {reprlib.repr(bbox)}"
        )
    x, y, w, h = (float(value) for value in bbox)
    if w <= 0 or h <= 0:
        raise BadRecordError(f"expected bbox to have a positive width and height, but got {bbox}")
    outside = min(x, y) < -_BORDER or x + w > width + _BORDER or y + h > height + _BORDER
    x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    if outside or x1 >= x2 or y1 >= y2:
        raise BadRecordError(
            f"expected bbox [x, y, width, height] to lie inside the image of height {height} and width {width}, but "
            f"got {bbox}; are the coordinates absolute pixels of this image, and not XYXY?"
        )
    return x1, y1, x2, y2


def is_finite_number(value: Any) -> bool:
    """Return whether a JSON value is a number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of more than 308 digits
        return False
