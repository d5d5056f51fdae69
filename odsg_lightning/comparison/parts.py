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
from odsg_lightning.files import read_json, write_text
from odsg_lightning.records.kept_folder import KeptFolder

log = logging.getLogger(__name__)

_BASE64 = re.compile("[A-Za-z0-9+/]*={0,2}")


class Parts(KeptFolder):
    """The finished images of one checkpoint.

    Args:
        folder: of these files alone.
        head: everything that they depend on, plain JSON values.
    """

    def __init__(self, folder: Path, head: Mapping[str, Any]) -> None:
        """See the class for the arguments. Nothing is written or read here."""
        super().__init__(folder, head, "unfinished comparison")

    def finished(self, image_id: int) -> ImageResult | None:
        """Return an image; None if it is not finished, or what is there is damaged."""
        path = self.image(image_id)
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
        write_text(self.image(image.image_id), json.dumps(asdict(image), allow_nan=False) + "\n")


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
