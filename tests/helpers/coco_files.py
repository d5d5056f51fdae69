"""Small COCO data sets, written to a temporary folder."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from odsg_lightning import CocoDetectionDataModule

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]  # not sorted, not contiguous: labels cat 0, dog 1
CROWD = {"iscrowd": 1, "segmentation": {"size": [30, 40], "counts": [0, 1200]}, "bbox": [0, 0, 40, 30]}
"""A region of many objects, as large as its image."""


def rectangle(x: float, y: float, width: float, height: float) -> list[list[float]]:
    """Segmentation of a box: one polygon."""
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def image_record(image_id: int, *, width: int = 40, height: int = 30, **changes: Any) -> dict[str, Any]:
    return {"id": image_id, "file_name": f"{image_id}.png", "width": width, "height": height, **changes}


def annotation_record(annotation_id: int, image_id: int, **changes: Any) -> dict[str, Any]:
    bbox = changes.get("bbox", [4, 6, 10, 8])
    segmentation = rectangle(*bbox) if "segmentation" not in changes and len(bbox) == 4 else None
    record = {"id": annotation_id, "image_id": image_id, "category_id": 3, "bbox": bbox, "iscrowd": 0}
    return {**record, "segmentation": segmentation, **changes}


def gradient_image(width: int, height: int) -> Image.Image:
    """An RGB image in which every pixel tells its place: red is the column, green the row."""
    pixels = np.full((height, width, 3), 128, dtype=np.uint8)
    pixels[..., 0] = np.arange(width) % 256
    pixels[..., 1] = np.arange(height)[:, None] % 256
    return Image.fromarray(pixels)


@dataclass
class CocoFiles:
    """Records of a COCO file, to be changed and then written with their images."""

    folder: Path
    images: list[Any] = field(default_factory=lambda: [image_record(1), image_record(2)])
    annotations: list[Any] = field(
        default_factory=lambda: [annotation_record(11, 1), annotation_record(12, 2, category_id=7)]
    )
    categories: list[Any] = field(default_factory=lambda: list(CATEGORIES))

    @property
    def json(self) -> Path:
        return self.folder / "instances.json"

    @property
    def images_dir(self) -> Path:
        return self.folder / "images"

    def write(self) -> "CocoFiles":
        """Write the JSON file and every image whose record allows it."""
        self.images_dir.mkdir(parents=True, exist_ok=True)
        for record in self.images:
            if isinstance(record, dict) and "/" not in str(record.get("file_name", "/")):
                gradient_image(record["width"], record["height"]).save(self.images_dir / record["file_name"])
        content = {"images": self.images, "annotations": self.annotations, "categories": self.categories}
        self.json.write_text(json.dumps(content))
        return self


def make_data(train: CocoFiles, val: CocoFiles, **options: Any) -> CocoDetectionDataModule:
    """Write both sets and make a small data module of them."""
    train.write()
    val.write()
    defaults = {"min_size": 30, "min_size_eval": 60, "num_workers": 0, "audit_images": 2}
    return CocoDetectionDataModule(
        train.json, str(train.images_dir), val.json, val.images_dir, **{**defaults, **options}
    )
