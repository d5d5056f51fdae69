"""Reading a COCO detection file, with every record checked before training starts."""

import logging
import os
import reprlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from odsg_lightning.data import coco_checks as checks
from odsg_lightning.data.coco_problems import LOST_OBJECTS, BadRecordError, Findings, Problems, list_problems
from odsg_lightning.data.coco_records import CROWD, Annotation, CocoImage, read_annotation, read_images, repeated_id
from odsg_lightning.data.images import load_image
from odsg_lightning.errors import BrokenInputError, MissingFileError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CocoDataset:
    """A checked COCO file.

    Attributes:
        source: the JSON file.
        images_dir: the folder that the file names are relative to.
        images: in ascending id.
        category_ids: COCO category ids, ascending; their positions are the labels.
        category_names: name of each category.
        skipped: what was left out, and why; one line for each kind.
        mended: what was mended or set aside: masks, boxes over the border, crowd regions; one line for each kind.
    """

    source: Path
    images_dir: Path
    images: tuple[CocoImage, ...]
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    skipped: tuple[str, ...] = field(default=(), repr=False)
    mended: tuple[str, ...] = field(default=(), repr=False)


def read_coco(
    annotations: str | Path,
    images: str | Path,
    *,
    bad_records: Literal["error", "skip"] = "error",
    segmentations: bool = True,
) -> CocoDataset:
    """Read a COCO detection file and check every record.

    A fault of a mask costs the mask only: the object is trained on and evaluated by its box, and left out of the audit.
    A box over the border is clipped to the image. Both are counted in one warning.

    Args:
        annotations: the JSON file.
        images: the folder that its file names are relative to.
        bad_records: ``"error"`` raises if any image or annotation is unusable; ``"skip"`` leaves these out and logs
            one warning. What leaves no sound rest is an error in both: a broken file or category list, ids that mean
            several things, boxes that are all relative or XYXY.
        segmentations: check and keep segmentations. A file in which all are missing or ``[]`` has boxes only, of which
            nothing is said.

    Returns:
        The images whose files exist, with their annotations.

    Raises:
        MissingFileError: the JSON file, the folder, or an image file is missing.
        BrokenInputError: the file or a record is unusable. All problems are counted, and three of each kind are named
            by file, annotation id, image id and file name.
    """
    source, folder = Path(annotations), Path(images)
    content = checks.load_coco_json(source)
    if not folder.is_dir():
        raise MissingFileError(f"Expected the images of {source} in a folder {folder}, but there is none.")
    problems, mended = Problems(source), Findings()
    categories = _read_categories(content["categories"], problems)
    if problems.counts:
        raise problems.error()
    known, unusable = read_images(content["images"], folder, problems)
    records = content["annotations"]
    checks.refuse_other_coordinates(source, _boxes(records, known))
    # Exporters of boxes write "segmentation": [] everywhere.
    segmentations = segmentations and any(isinstance(r, dict) and r.get("segmentation") for r in records)
    labels = {category_id: label for label, category_id in enumerate(categories)}
    annotations_of: dict[int, list[Annotation]] = {image_id: [] for image_id in known}
    image_of: dict[int, int] = {}
    dropped = 0
    for index, record in enumerate(records):
        try:
            image_id = checks.integer(record, "image_id")
            if image_id in unusable:  # its image is reported already
                dropped += 1
                continue
            if image_id not in known:
                raise BadRecordError(
                    "annotations of an unknown image",
                    f"expected image_id to be one of the file's images, but got {image_id}",
                )
            annotation, mends = read_annotation(record, known[image_id], labels, segmentations)
            if annotation.id in image_of:
                raise repeated_id(annotation.id, image_of[annotation.id], image_id)
        except BadRecordError as problem:
            problems.refuse(_describe(record, index, known), problem)
        else:
            image_of[annotation.id] = image_id
            annotations_of[image_id].append(annotation)
            for kind, message in mends:
                mended.add(kind, f"{_describe(record, index, known)}{message}")
    if problems.counts and (bad_records == "error" or problems.fatal):
        raise problems.error()
    if not known:
        raise BrokenInputError(
            f"Expected {source} to have at least one usable image, but all were skipped.\n{problems}"
        )
    if problems.counts:
        log.warning(
            "Skipped %d unusable records of %s, and %d annotations of skipped images. %s\n%s",
            *(problems.counts.total(), source, dropped, LOST_OBJECTS, problems),
        )
    _report(mended, source, len(image_of))
    kept = (replace(known[i], annotations=tuple(sorted(annotations_of[i], key=lambda a: a.id))) for i in sorted(known))
    return CocoDataset(
        source=source,
        images_dir=folder,
        images=tuple(kept),
        category_ids=tuple(categories),
        category_names=tuple(categories.values()),
        skipped=tuple(problems.lines),
        mended=tuple(mended.lines),
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
            f"not:\n{list_problems(broken)}"
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


def _report(mended: Findings, source: Path, n_objects: int) -> None:
    """Warn of what was mended, and of crowd regions if they are many."""
    if mended.counts[CROWD] > n_objects / 10:
        log.warning(
            "%d of the %d objects of %s are crowd regions (iscrowd 1), which are neither trained on nor audited. Does "
            "its exporter write iscrowd 1 for single objects, say because their masks are RLE?",
            *(mended.counts[CROWD], n_objects, source),
        )
    if mended.counts.keys() - {CROWD}:
        log.warning("Mended or set aside of %s:\n%s", source, mended)


def _read_categories(records: list[Any], problems: Problems) -> dict[int, str]:
    names: dict[int, str] = {}
    kind = "categories that cannot be used"
    for index, record in enumerate(records):
        try:
            category_id, name = checks.integer(record, "id"), checks.field(record, "name")
            if not isinstance(name, str) or not name:
                raise BadRecordError(kind, f"expected name to be a text, but got {name!r}")
            if category_id in names:
                raise BadRecordError(kind, f"expected category ids to be unique, but id {category_id} came before")
            names[category_id] = name
        except BadRecordError as problem:
            problems.refuse(f"categories[{index}]", BadRecordError(problem.kind, str(problem), fatal=True))
    return dict(sorted(names.items()))


def _boxes(records: list[Any], images: dict[int, CocoImage]) -> list[tuple[list[float], int, int]]:
    """Return each ``bbox`` that is four numbers, with height and width of its image."""
    boxes = []
    for record in records:
        if isinstance(record, dict) and checks.is_bbox(record.get("bbox")):
            image_id = checks.whole_number(record.get("image_id"))
            image = None if image_id is None else images.get(image_id)
            if image is not None:
                boxes.append((record["bbox"], image.height, image.width))
    return boxes


def _describe(record: Any, index: int, images: dict[int, CocoImage]) -> str:
    if not isinstance(record, dict):
        return f"annotations[{index}]"
    annotation_id, image_id = (_as_integer(record.get(key, "?")) for key in ("id", "image_id"))
    image = images.get(image_id) if isinstance(image_id, int) else None
    name = f", file_name {image.file_name!r}" if image else ""
    return f"annotation id {annotation_id!r} (image id {image_id!r}{name})"


def _as_integer(value: Any) -> Any:
    return value if (whole := checks.whole_number(value)) is None else whole
