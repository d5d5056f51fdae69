"""One record of a COCO file: an image, an annotation; what cannot be used, and what is mended."""

import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from odsg_lightning.data import coco_checks as checks
from odsg_lightning.data.coco_checks import Box
from odsg_lightning.data.coco_masks import Segmentation, plain_segmentation, segmentation_problem
from odsg_lightning.data.coco_problems import BadRecordError, Problems
from odsg_lightning.data.image_names import ImageFolder
from odsg_lightning.data.images import refuse_bombs
from odsg_lightning.files import LFS_POINTER, is_lfs_pointer

_ASIDE = "trained on and evaluated by their boxes, left out of the audit"
_NO_MASK = f"objects without a mask, {_ASIDE}"
_BROKEN_MASK = f"objects whose mask cannot be used, {_ASIDE}"
_CLIPPED = "boxes over the border, clipped to their image"
CROWD = "crowd regions, neither trained on nor audited"


@dataclass(frozen=True, slots=True)
class Annotation:
    """One object of an image.

    Attributes:
        id: COCO annotation id.
        category_id: COCO category id, as in the file.
        label: contiguous class index from 0, in the order of the category ids.
        box: XYXY in pixels of the original image, clipped to it.
        iscrowd: a region of many objects, neither trained on nor audited.
        segmentation: polygons or RLE as in the file; None if there is none or it was not asked for.
    """

    id: int
    category_id: int
    label: int
    box: Box
    iscrowd: bool
    segmentation: Segmentation | None


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One image: ``height`` and ``width`` in pixels, ``annotations`` in ascending id."""

    id: int
    file_name: str
    height: int
    width: int
    annotations: tuple[Annotation, ...] = ()


def read_images(records: list[Any], folder: Path, problems: Problems) -> tuple[dict[int, CocoImage], set[int]]:
    """Return the usable images by id, and the ids of the others."""
    files = ImageFolder(folder)
    known: dict[int, CocoImage] = {}
    unusable: set[int] = set()
    for index, record in enumerate(records):
        where = f"images[{index}]"
        try:
            image_id = checks.integer(record, "id")
            where = f"image id {image_id} (file_name {record.get('file_name', '?')!r})"
            if image_id in known or image_id in unusable:
                message = "expected image ids to be unique, but this one came before"
                raise BadRecordError("images whose id came before", message, fatal=True)
            unusable.add(image_id)
            name = checks.file_name(record)
            height, width = checks.integer(record, "height", 1), checks.integer(record, "width", 1)
            _refuse_bombs(width, height)
            name = files.find(name)
            if is_lfs_pointer(folder / name):
                message = f"expected an image file {folder / name}, but {LFS_POINTER}"
                raise BadRecordError("images that are Git LFS pointers", message, fatal=True)
        except BadRecordError as problem:
            problems.refuse(where, problem)
        else:
            unusable.remove(image_id)
            known[image_id] = CocoImage(image_id, name, height, width)
    return known, unusable


def read_annotation(
    record: dict[str, Any], image: CocoImage, labels: dict[int, int], segmentations: bool
) -> tuple[Annotation, list[tuple[str, str]]]:
    """Return an annotation, and what was mended of it: kinds, each with what to say of this one."""
    annotation_id, category_id = checks.integer(record, "id"), checks.integer(record, "category_id")
    if category_id not in labels:
        raise BadRecordError(
            "annotations of an unknown category",
            f"expected category_id to be one of {reprlib.repr(sorted(labels))}, but got {category_id}",
        )
    box, clipped = checks.box_xyxy(record, image.height, image.width)
    iscrowd = checks.crowd_flag(record)
    mends = [(_CLIPPED, f": {record['bbox']}")] if clipped else []
    segmentation = plain_segmentation(record.get("segmentation") or None) if segmentations else None
    if iscrowd:
        mends.append((CROWD, ""))
    elif segmentations and segmentation is None:
        mends.append((_NO_MASK, ""))
    if segmentation is not None:
        problem = segmentation_problem(segmentation, image.height, image.width)
        if problem:
            segmentation = None
            mends += [] if iscrowd else [(_BROKEN_MASK, f": {problem}")]
    return Annotation(annotation_id, category_id, labels[category_id], box, iscrowd, segmentation), mends


def repeated_id(annotation_id: int, first_image: int, image_id: int) -> BadRecordError:
    """Return the error for an id that came before; of another image, all objects but the first would vanish."""
    if first_image == image_id:
        message = "expected annotation ids to be unique, but this one came before"
        return BadRecordError("annotations whose id came before", message)
    return BadRecordError(
        "annotations whose id another image has, too",
        f"expected annotation ids to be unique in the whole file, but image id {first_image} has id {annotation_id}, "
        'too. Where they begin again in every image, number them through: for i, a in enumerate(file["annotations"]): '
        'a["id"] = i',
        fatal=True,
    )


def _refuse_bombs(width: int, height: int) -> None:
    try:
        refuse_bombs(width, height)
    except ValueError as error:
        raise BadRecordError("images that are too large", str(error)) from error
