"""Finished images on disk, so that an interrupted comparison goes on, and one more checkpoint costs itself only.

Each image is one JSON file, written whole, in a folder of its checkpoint. Nothing here loads torch.
"""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from odsg_lightning.comparison.result import ComparedObject, ImageResult, Pictures
from odsg_lightning.errors import BrokenInputError
from odsg_lightning.files import make_folder, read_json, write_text
from odsg_lightning.records.record import differing_entries

log = logging.getLogger(__name__)

_HEAD = "head.json"
_BASE64 = re.compile("[A-Za-z0-9+/]*={0,2}")


class Parts:
    """The finished images of one checkpoint.

    Args:
        folder: of these files alone.
        head: everything that they depend on, plain JSON values.
    """

    def __init__(self, folder: Path, head: Mapping[str, Any]) -> None:
        """See the class for the arguments. Nothing is written or read here."""
        self.folder = folder
        self._head = json.loads(json.dumps(dict(head)))

    def open(self, *, throw_away: str = "") -> None:
        """Take up what an earlier call with the same head has finished; anything else there is thrown away.

        Args:
            throw_away: a reason to throw away what fits, too.

        Raises:
            BrokenInputError: the folder holds files of somebody else.
            DiskError: the disk is full, or fails, or nothing may be written there.
        """
        if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
            raise BrokenInputError(f"Expected {self.folder} to be a folder of a comparison. Remove it.")
        if self.folder.is_dir() and any(self.folder.iterdir()):
            reason = throw_away or self._difference()
            if reason:
                log.warning("The finished images in %s are thrown away: %s.", self.folder, reason)
                self._remove()
        make_folder(self.folder)
        write_text(self.folder / _HEAD, json.dumps(self._head, indent=1, sort_keys=True) + "\n")

    def finished(self, image_id: int) -> ImageResult | None:
        """Return an image; None if it is not finished, or what is there is damaged."""
        path = self._path(image_id)
        if not path.exists():
            return None
        try:
            found = _image_result(read_json(path, "a finished image of a comparison"))
        except (BrokenInputError, TypeError, ValueError, AttributeError, KeyError) as error:
            log.warning("Image id %d is explained again, because %s is damaged: %s", image_id, path, error)
            return None
        return found if found.image_id == image_id else None

    def add(self, image: ImageResult) -> None:
        """Keep a finished image."""
        write_text(self._path(image.image_id), json.dumps(asdict(image), allow_nan=False) + "\n")

    def _path(self, image_id: int) -> Path:
        return self.folder / f"image_{image_id}.json"

    def _difference(self) -> str:
        """Say why what is there does not fit; empty if it does."""
        try:
            head = read_json(self.folder / _HEAD, "the head of a comparison")
        except BrokenInputError as error:
            return str(error).rstrip(".")
        if not isinstance(head, dict):
            return "its head is damaged"
        different = differing_entries(head, self._head)
        return f"it differs in {', '.join(map(repr, different))}" if different else ""

    def _remove(self) -> None:
        paths = list(self.folder.iterdir())
        for path in paths:
            if path.is_dir() or not path.name.startswith((_HEAD, "image_", ".image_", f".{_HEAD}")):
                raise BrokenInputError(f"Expected {self.folder} to hold a comparison only, but found {path}.")
        for path in paths:
            path.unlink()


def _image_result(content: Any) -> ImageResult:
    """Return what a file says, as far as the types of its values go: it may be of unknown origin.

    Raises:
        TypeError: a value of another type, or an entry that is missing or unknown; ValueError and KeyError likewise.
    """
    objects = tuple(
        ComparedObject(
            **{
                **of_object,
                "category": str(of_object["category"]),
                "score": float(of_object["score"]),
                "iou": float(of_object["iou"]),
                "values": {
                    name: {key: None if value is None else float(value) for key, value in values.items()}
                    for name, values in of_object["values"].items()
                },
                "undefined": {name: int(count) for name, count in of_object["undefined"].items()},
            }
        )
        for of_object in content["objects"]
    )
    pictures = content["pictures"]
    if pictures is not None:
        maps = pictures["maps"]
        images = [pictures["photograph"], *(image for of_one in maps.values() for image in of_one.values())]
        if not all(_BASE64.fullmatch(image) for image in images):
            raise ValueError("a picture is not base64")
        pictures = Pictures(int(pictures["annotation_id"]), str(pictures["title"]), pictures["photograph"], maps)
    return ImageResult(
        int(content["image_id"]),
        objects,
        tuple(map(int, content["missed"])),
        {name: str(why) for name, why in content["left_out"].items()},
        {name: float(seconds) for name, seconds in content["seconds"].items()},
        pictures,
    )
