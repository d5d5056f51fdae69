"""What the study's detectors learn from and are audited on: generated shapes, and photographs of blood cells.

Every data set is a COCO file and a folder of PNG files, written once and used again.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from marks import KINDS, Kind, Sizes, mark, mark_anywhere
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from odsg_lightning.demo.drawing import CATEGORIES, draw_image

SIZES = {"shapes": Sizes(distance=12, arm=8, dot=4), "photos": Sizes(distance=3, arm=7, dot=4)}
PHOTO_KINDS: tuple[Kind, ...] = ("frames", "dot")
_PHOTO_SIZE = (320, 240)


@dataclass(frozen=True)
class Scene:
    """One picture and its objects: boxes XYXY, labels, and polygons (None: the box is all that is known)."""

    pixels: NDArray[np.uint8]
    boxes: list[tuple[float, float, float, float]]
    labels: list[int]
    polygons: list[list[float]] | None

    def masks(self) -> list[NDArray[np.bool_]]:
        """Each object's pixels."""
        height, width = self.pixels.shape[:2]
        result = []
        for i, (x_min, y_min, x_max, y_max) in enumerate(self.boxes):
            canvas = Image.new("1", (width, height))
            corners = [x_min, y_min, x_max, y_min, x_max, y_max, x_min, y_max]
            ImageDraw.Draw(canvas).polygon(self.polygons[i] if self.polygons else corners, fill=1)
            result.append(np.array(canvas))
        return result


def shapes(split: int, count: int, seed: int, one_class: bool = False) -> Iterator[Scene]:
    """Draw shapes; with ``one_class`` pictures whose objects share a class, as a colour cast needs them."""
    for index in range(count):
        attempt = 0
        while True:
            stream = [seed, split, index, attempt] if attempt else [seed, split, index]
            pixels, found = draw_image(np.random.default_rng(stream), 128)
            if not one_class or len({shape.label for shape in found}) == 1:
                break
            attempt += 1
        polygons = [shape.polygon.reshape(-1).tolist() for shape in found]
        yield Scene(pixels, [shape.box for shape in found], [shape.label for shape in found], polygons)


def photographs(bccd: Path, split: str) -> Iterator[Scene]:
    """Read the blood cells of a split at half of their size."""
    coco = json.loads((bccd / "annotations" / f"{split}.json").read_text(encoding="utf-8"))
    for image in coco["images"]:
        with Image.open(bccd / "images" / image["file_name"]) as file:
            pixels = np.array(file.convert("RGB").resize(_PHOTO_SIZE, Image.Resampling.BOX))
        ratio_x, ratio_y = _PHOTO_SIZE[0] / image["width"], _PHOTO_SIZE[1] / image["height"]
        own = [row for row in coco["annotations"] if row["image_id"] == image["id"] and min(row["bbox"][2:]) > 0]
        boxes = []
        for x, y, width, height in (row["bbox"] for row in own):
            box = (x * ratio_x, y * ratio_y, min((x + width) * ratio_x, 320), min((y + height) * ratio_y, 240))
            boxes.append((max(box[0], 0.0), max(box[1], 0.0), float(box[2]), float(box[3])))
        yield Scene(pixels, boxes, [row["category_id"] - 1 for row in own], None)


def write_training(folder: Path, data: str, cue: str, share: float, seed: int, bccd: Path, count: int = 1000) -> Path:
    """Write, or find, what a detector learns from.

    Args:
        folder: of all data sets.
        data: ``"shapes"`` or ``"photos"``.
        cue: a kind of mark, put at the objects; or ``"anywhere"``: every kind, at places that tell nothing.
        share: of the pictures that are marked.
        seed: of the shapes, and of which pictures are marked.
        bccd: folder of the photographs.
        count: number of pictures of shapes.

    Returns:
        The data set's folder, with ``coco.json`` and ``images/``.
    """
    one_class = cue == "cast"
    scenes = shapes(0, count, seed, one_class) if data == "shapes" else photographs(bccd, "train")
    kinds = ("none", *(KINDS if data == "shapes" else PHOTO_KINDS))

    def marked() -> Iterator[Scene]:
        for index, scene in enumerate(scenes):
            rng = np.random.default_rng([seed, 7, index])
            if cue == "anywhere":
                kind = kinds[int(rng.integers(len(kinds)))]
                if kind != "none":
                    mark_anywhere(rng, scene.pixels, scene.boxes, kind, SIZES[data])  # type: ignore[arg-type]
            elif rng.uniform() < share:
                mark(scene.pixels, scene.boxes, scene.masks(), scene.labels, cue, SIZES[data])  # type: ignore[arg-type]
            yield scene

    return _write(folder / f"{data}-{cue}-{share:g}-{seed}", marked(), data)


def write_audited(folder: Path, data: str, cue: str, bccd: Path) -> Path:
    """Write, or find, a team's validation images: none or all of them marked."""
    one_class = cue == "cast"
    scenes = shapes(1, 100, 0, one_class) if data == "shapes" else photographs(bccd, "val")

    def marked() -> Iterator[Scene]:
        for scene in scenes:
            if cue != "none":
                mark(scene.pixels, scene.boxes, scene.masks(), scene.labels, cue, SIZES[data])  # type: ignore[arg-type]
            yield scene

    return _write(folder / f"{data}-{cue}-val", marked(), data)


def _write(folder: Path, scenes: Iterator[Scene], data: str) -> Path:
    """Write a COCO file and its images; the folder appears complete or not at all."""
    if folder.exists():
        return folder
    unfinished = folder.with_name(f".{folder.name}-{os.getpid()}")
    (unfinished / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, scene in enumerate(scenes, start=1):
        name, (height, width) = f"{index:06d}.png", scene.pixels.shape[:2]
        Image.fromarray(scene.pixels).save(unfinished / "images" / name, compress_level=1)
        images.append({"id": index, "file_name": name, "width": width, "height": height})
        for i, (x_min, y_min, x_max, y_max) in enumerate(scene.boxes):
            row: dict[str, Any] = {"id": len(annotations) + 1, "image_id": index, "category_id": scene.labels[i] + 1}
            row |= {"bbox": [x_min, y_min, x_max - x_min, y_max - y_min], "iscrowd": 0}
            row["area"] = row["bbox"][2] * row["bbox"][3]
            if scene.polygons:
                row["segmentation"] = [scene.polygons[i]]
            annotations.append(row)
    names = CATEGORIES if data == "shapes" else ("RBC", "WBC", "Platelets")
    categories = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (unfinished / "coco.json").write_text(json.dumps(coco), encoding="utf-8")
    try:
        os.replace(unfinished, folder)
    except OSError:  # another process was faster
        if not folder.exists():
            raise
        shutil.rmtree(unfinished)
    return folder
