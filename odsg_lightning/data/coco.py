"""Reading a COCO detection file, with every record checked before training starts."""

import logging
import os
import reprlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from odsg_lightning.data import coco_checks as checks
from odsg_lightning.data.coco_checks import BadRecordError, Box, Problems
from odsg_lightning.data.coco_masks import Segmentation, segmentation_problem
from odsg_lightning.data.images import load_image, refuse_bombs
from odsg_lightning.errors import BrokenInputError, MissingFileError

log = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class CocoDataset:
    """A checked COCO file.

    Attributes:
        source: the JSON file.
        images_dir: the folder that the file names are relative to.
        images: in ascending id.
        category_ids: COCO category ids, ascending; their positions are the labels.
        category_names: name of each category.
        skipped: what was left out, and why.
    """

    source: Path
    images_dir: Path
    images: tuple[CocoImage, ...]
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    skipped: tuple[str, ...] = field(default=(), repr=False)


def read_coco(
    annotations: str | Path,
    images: str | Path,
    *,
    bad_records: Literal["error", "skip"] = "error",
    segmentations: bool = True,
) -> CocoDataset:
    """Read a COCO detection file and check every record.

    Args:
        annotations: the JSON file.
        images: the folder that its file names are relative to.
        bad_records: ``"error"`` raises if any image or annotation is unusable; ``"skip"`` leaves these out and logs
            one warning. What leaves no sound rest is an error in both: a broken file or category list, or two images
            of one id.
        segmentations: check and keep segmentations. A file in which all are missing or ``[]`` has boxes only, which
            is no error.

    Returns:
        The images whose files exist, with their annotations.

    Raises:
        MissingFileError: the JSON file, the folder, or an image file is missing.
        BrokenInputError: the file or a record is unusable. All problems are counted, and ten are named by file,
            annotation id, image id and file name.
    """
    source, folder = Path(annotations), Path(images)
    content = checks.load_coco_json(source)
    if not folder.is_dir():
        raise MissingFileError(f"Expected the images of {source} in a folder {folder}, but there is none.")
    problems = Problems(source)
    categories = _read_categories(content["categories"], problems)
    if problems.lines:
        raise problems.error()
    known, unusable = _read_images(content["images"], folder, problems)
    annotations_of: dict[int, list[Annotation]] = {image_id: [] for image_id in known}
    labels = {category_id: label for label, category_id in enumerate(categories)}
    # Exporters of boxes write "segmentation": [] everywhere; among real ones it is a mistake.
    segmentations = segmentations and any(isinstance(r, dict) and r.get("segmentation") for r in content["annotations"])
    seen: set[int] = set()
    dropped = 0
    for index, record in enumerate(content["annotations"]):
        try:
            image_id = checks.integer(record, "image_id")
            if image_id in unusable:  # its image is reported already
                dropped += 1
                continue
            if image_id not in known:
                raise BadRecordError(f"expected image_id to be one of the file's images, but got {image_id}")
            annotation = _annotation(record, known[image_id], labels, segmentations)
            if annotation.id in seen:
                raise BadRecordError("expected annotation ids to be unique, but this one came before")
        except BadRecordError as problem:
            problems.add(_describe(record, index, known), problem)
        else:
            seen.add(annotation.id)
            annotations_of[image_id].append(annotation)
    if problems.lines and (bad_records == "error" or problems.fatal):
        raise problems.error()
    if not known:
        raise BrokenInputError(
            f"Expected {source} to have at least one usable image, but all were skipped.\n{problems}"
        )
    if problems.lines:
        log.warning(
            "Skipped %d unusable records of %s, and %d annotations of skipped images:\n%s",
            *(len(problems.lines), source, dropped, problems),
        )
    kept = (replace(known[i], annotations=tuple(sorted(annotations_of[i], key=lambda a: a.id))) for i in sorted(known))
    return CocoDataset(
        source=source,
        images_dir=folder,
        images=tuple(kept),
        category_ids=tuple(categories),
        category_names=tuple(categories.values()),
        skipped=tuple(problems.lines),
    )


def check_images(dataset: CocoDataset) -> None:
    """Decode every image in a pool of threads, so that a broken file is found before training and not within it.

    Raises:
        BrokenInputError: images are truncated, are no images, or differ in size from their records. All are counted,
            and ten named.
    """

    def problem(image: CocoImage) -> str | None:
        try:
            load_image(dataset.images_dir / image.file_name, (image.height, image.width))
        except BrokenInputError as error:
            return f"image id {image.id}: {error}"
        return None

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        broken = [line for line in pool.map(problem, dataset.images) if line]
    if broken:
        raise BrokenInputError(
            f"Expected all {len(dataset.images)} images of {dataset.source} to be readable, but {len(broken)} are "
            f"not:\n{checks.list_problems(broken)}"
        )


def require_same_categories(train: CocoDataset, val: CocoDataset) -> None:
    """Refuse two files of which a label would mean different things: a detector's classes are their categories.

    Raises:
        BrokenInputError: names what is in one of them only.
    """
    ours, theirs = (set(zip(d.category_ids, d.category_names, strict=True)) for d in (train, val))
    if ours != theirs:
        in_training, in_validation = (
            reprlib.repr([f"{category_id}: {name}" for category_id, name in sorted(only)])
            for only in (ours - theirs, theirs - ours)
        )
        raise BrokenInputError(
            f"Expected {train.source} and {val.source} to list the same categories, but {in_training} in training "
            f"only, and {in_validation} in validation only. Write the full list into both files."
        )


def _read_categories(records: list[Any], problems: Problems) -> dict[int, str]:
    names: dict[int, str] = {}
    for index, record in enumerate(records):
        where = f"categories[{index}]"
        try:
            category_id, name = checks.integer(record, "id"), checks.field(record, "name")
            if not isinstance(name, str) or not name:
                raise BadRecordError(f"expected name to be a text, but got {name!r}")
            if category_id in names:
                raise BadRecordError(f"expected category ids to be unique, but id {category_id} came before")
            names[category_id] = name
        except BadRecordError as problem:
            problems.add(where, problem, fatal=True)
    return dict(sorted(names.items()))


def _read_images(records: list[Any], folder: Path, problems: Problems) -> tuple[dict[int, CocoImage], set[int]]:
    """Return the usable images by id, and the ids of the others."""
    known: dict[int, CocoImage] = {}
    unusable: set[int] = set()
    for index, record in enumerate(records):
        where = f"images[{index}]"
        try:
            image_id = checks.integer(record, "id")
            where = f"image id {image_id} (file_name {record.get('file_name', '?')!r})"
            if image_id in known or image_id in unusable:
                problems.add(where, "expected image ids to be unique, but this one came before", fatal=True)
                continue
            unusable.add(image_id)
            name = checks.file_name(record)
            image = CocoImage(image_id, name, checks.integer(record, "height", 1), checks.integer(record, "width", 1))
            refuse_bombs(image.width, image.height)
        except ValueError as problem:
            problems.add(where, problem)
            continue
        if checks.file_exists(folder, name):
            unusable.remove(image_id)
            known[image_id] = image
        else:
            problems.add(where, f"expected a file {folder / name}, but there is none", missing_file=True)
    return known, unusable


def _annotation(record: dict[str, Any], image: CocoImage, labels: dict[int, int], segmentations: bool) -> Annotation:
    annotation_id, category_id = checks.integer(record, "id"), checks.integer(record, "category_id")
    if category_id not in labels:
        raise BadRecordError(f"expected category_id to be one of {reprlib.repr(sorted(labels))}, but got {category_id}")
    box, iscrowd = checks.box_xyxy(record, image.height, image.width), checks.crowd_flag(record)
    segmentation = record.get("segmentation") if segmentations else None
    problem = None if segmentation is None else segmentation_problem(segmentation, image.height, image.width)
    if problem:
        raise BadRecordError(problem)
    return Annotation(annotation_id, category_id, labels[category_id], box, iscrowd, segmentation)


def _describe(record: Any, index: int, images: dict[int, CocoImage]) -> str:
    if not isinstance(record, dict):
        return f"annotations[{index}]"
    image_id = record.get("image_id", "?")
    image = images.get(image_id) if isinstance(image_id, int) else None
    name = f", file_name {image.file_name!r}" if image else ""
    return f"annotation id {record.get('id', '?')!r} (image id {image_id!r}{name})"
