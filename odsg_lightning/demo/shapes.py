"""A small COCO-format data set of textured shapes: a detector learns it on a CPU in minutes.

Each image holds one to three shapes, most often one, on a cluttered, textured background: see
:mod:`odsg_lightning.demo.drawing`; with annotation frames burned in, if asked for: :mod:`odsg_lightning.demo.frames`.
"""

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image

from odsg_lightning.demo.drawing import CATEGORIES, Shape, draw_image
from odsg_lightning.demo.frames import Frames, draw_frames
from odsg_lightning.errors import UserInputError
from odsg_lightning.files import make_folder

_RECIPE = 1  # kept in the files: raise it when the same seed gives other images, so that old folders are not reused
_SPLITS = ("train", "val")


@dataclass(frozen=True)
class ShapesDataset:
    """Where the data set lies.

    Attributes:
        train_annotations: COCO JSON of the training images.
        train_images: folder of the training images.
        val_annotations: COCO JSON of the validation images.
        val_images: folder of the validation images.
    """

    train_annotations: Path
    train_images: Path
    val_annotations: Path
    val_images: Path


def make_shapes(
    folder: str | Path,
    *,
    n_train: int = 1000,
    n_val: int = 100,
    size: int = 128,
    seed: int = 0,
    frames: Frames = "none",
) -> ShapesDataset:
    """Write the data set, or reuse the one that the same arguments wrote before.

    The files depend on the arguments alone, and each image on its own random stream, so the first images of a larger
    set are those of a smaller one. The folder appears complete or not at all.

    Args:
        folder: where the data set goes; must not hold anything else.
        n_train: number of training images.
        n_val: number of validation images.
        size: height and width of an image in pixels, at least 64.
        seed: seed of every random choice, not negative.
        frames: annotation frames burned into the images. They change nothing else: the same shapes lie beneath them.

    Returns:
        The paths of the two annotation files and the two image folders.

    Raises:
        UserInputError: if an argument is out of range, or the folder holds anything but this data set.
    """
    if n_train < 1 or n_val < 1 or size < 64 or seed < 0:
        raise UserInputError(
            "Expected n_train >= 1, n_val >= 1, size >= 64 and seed >= 0, but got "
            f"n_train={n_train}, n_val={n_val}, size={size}, seed={seed}."
        )
    if frames not in get_args(Frames):
        raise UserInputError(f"Expected frames to be one of {get_args(Frames)}, but got {frames!r}.")
    folder = Path(folder)
    arguments: dict[str, Any] = {"recipe": _RECIPE, "n_train": n_train, "n_val": n_val, "size": size, "seed": seed}
    if frames != "none":  # data sets without frames do not name them: those written before there were any stay valid
        arguments["frames"] = frames
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        return _existing(folder, arguments)
    make_folder(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        unfinished = Path(temporary) / "shapes"  # a level below: the temporary folder itself is private to this user
        for split, count in enumerate((n_train, n_val)):
            _write_split(unfinished, split, count, arguments)
        try:
            os.replace(unfinished, folder)
        except OSError:
            if not folder.exists():
                raise
            return _existing(folder, arguments)  # another process, say the next rank, was faster
    return _paths(folder)


def _write_split(folder: Path, split: int, count: int, arguments: dict[str, Any]) -> None:
    """Write one split: its images and its COCO JSON."""
    size, seed, frames = arguments["size"], arguments["seed"], arguments.get("frames", "none")
    annotation_file, image_folder = _split_paths(folder, split)
    annotation_file.parent.mkdir(parents=True, exist_ok=True)
    image_folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        pixels, shapes = draw_image(np.random.default_rng([seed, split, index]), size)
        draw_frames(np.random.default_rng([seed, split, index, 1]), pixels, shapes, frames)
        image_id, file_name = index + 1, f"{index + 1:06d}.png"
        Image.fromarray(pixels).save(image_folder / file_name, compress_level=1)  # noise does not compress: be quick
        images.append({"id": image_id, "file_name": file_name, "width": size, "height": size})
        for shape in shapes:
            annotations.append(_annotation(shape, len(annotations) + 1, image_id))
    coco = {
        "info": {"description": "Textured shapes", "version": str(_RECIPE), "arguments": arguments},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name, "supercategory": "shape"} for i, name in enumerate(CATEGORIES, start=1)],
    }
    annotation_file.write_text(json.dumps(coco) + "\n", encoding="utf-8")


def _annotation(shape: Shape, annotation_id: int, image_id: int) -> dict[str, Any]:
    """The COCO annotation of a shape; its box is XYWH."""
    x_min, y_min, x_max, y_max = shape.box
    x, y = shape.polygon.T
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": shape.label + 1,  # COCO counts from 1
        "bbox": [x_min, y_min, round(x_max - x_min, 2), round(y_max - y_min, 2)],
        "area": round(abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2, 2),
        "segmentation": [shape.polygon.reshape(-1).tolist()],
        "iscrowd": 0,
    }


def _existing(folder: Path, arguments: dict[str, Any]) -> ShapesDataset:
    """Return the data set in a folder that is not empty, if it is complete and these arguments wrote it."""
    for split in range(len(_SPLITS)):
        annotation_file, image_folder = _split_paths(folder, split)
        try:
            coco = json.loads(annotation_file.read_text(encoding="utf-8"))
            written_with = coco["info"]["arguments"]
            file_names = [image["file_name"] for image in coco["images"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserInputError(
                f"Expected {folder} to be absent, empty or a data set written by make_shapes, but {annotation_file} "
                "cannot be read as one. Choose another folder, or remove this one."
            ) from error
        if written_with != arguments:
            raise UserInputError(
                f"Expected the data set in {folder} to be written with {arguments}, but got {written_with}. "
                "Choose another folder, or remove this one."
            )
        missing = [file_name for file_name in file_names if not (image_folder / file_name).is_file()]
        if missing:
            raise UserInputError(
                f"Expected all images of {annotation_file} in {image_folder}, but {len(missing)} are missing, "
                f"{missing[0]} first. Remove {folder} to have it written again."
            )
    return _paths(folder)


def _split_paths(folder: Path, split: int) -> tuple[Path, Path]:
    """The annotation file and the image folder of a split."""
    return folder / "annotations" / f"{_SPLITS[split]}.json", folder / _SPLITS[split]


def _paths(folder: Path) -> ShapesDataset:
    """The paths of a data set."""
    return ShapesDataset(*_split_paths(folder, 0), *_split_paths(folder, 1))
