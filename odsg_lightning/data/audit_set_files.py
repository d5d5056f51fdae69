"""An audit set and the files it was chosen from: what they hold now, and whether it is what they held then."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from odsg_lightning.data.audit_samples import MaskSource, audit_sample
from odsg_lightning.data.coco import CocoDataset, check_images, read_coco
from odsg_lightning.data.coco_problems import list_problems
from odsg_lightning.data.coco_records import CocoImage
from odsg_lightning.errors import BrokenInputError
from odsg_lightning.files import sha256_of, sha256_of_json
from odsg_lightning.records.audit_set import AuditImage, AuditSet
from odsg_lightning.types import AuditSample


def read_dataset(
    annotations: Path, images: Path, masks: MaskSource, bad_records: Literal["error", "skip"]
) -> CocoDataset:
    """Read a COCO file as an audit needs it: with its segmentations if they are what saliency is measured against.

    Raises:
        BrokenInputError: the file, its folder, or a record cannot be used.
    """
    return read_coco(annotations, images, bad_records=bad_records, segmentations=masks == "segmentation")


def describe(
    coco: CocoDataset,
    objects: dict[int, list[int]],
    masks: MaskSource,
    min_size: int,
    max_size: int,
    seed: int | None = None,
    bad_records: Literal["error", "skip"] = "error",
) -> AuditSet:
    """Return the set of the given images, with the hashes of what they hold now.

    Args:
        coco: where they come from.
        objects: ids of the audited annotations by image id.
        masks: what saliency is measured against.
        min_size: length of the shorter edge, in pixels.
        max_size: upper limit of the longer edge, in pixels.
        seed: which images were chosen; None if they were named.
        bad_records: how ``coco`` was read.
    """
    images = {image.id: image for image in coco.images}
    return AuditSet(
        annotations=coco.source.absolute(),
        images_dir=coco.images_dir.absolute(),
        masks=masks,
        min_size=min_size,
        max_size=max_size,
        seed=seed,
        bad_records=bad_records,
        categories=tuple(zip(coco.category_ids, coco.category_names, strict=True)),
        images=tuple(
            AuditImage(
                i,
                images[i].file_name,
                sha256_of(coco.images_dir / images[i].file_name),
                _annotations_sha256(images[i]),
                tuple(objects[i]),
            )
            for i in sorted(objects)
        ),
    )


def unchanged_dataset(chosen: AuditSet, annotations: Path | None = None, images: Path | None = None) -> CocoDataset:
    """Read the COCO file of a set, and refuse it if anything that the audit's numbers depend on has changed.

    Args:
        chosen: the set.
        annotations: where the COCO file lies now; None for where the set says.
        images: where its images lie now.

    Returns:
        The COCO file with the images of the set only.

    Raises:
        BrokenInputError: the file cannot be read, or its categories, an image or an image's annotations are not those
            that were chosen, or an image cannot be decoded. All are counted, and ten are named.
    """
    coco = read_dataset(
        annotations or chosen.annotations, images or chosen.images_dir, chosen.masks, chosen.bad_records
    )
    changes = []
    if tuple(zip(coco.category_ids, coco.category_names, strict=True)) != chosen.categories:
        changes.append("its categories")
    known = {image.id: image for image in coco.images}
    for image in chosen.images:
        what = _changed(image, known.get(image.id), coco)
        if what:
            changes.append(f"image id {image.id} ({image.file_name!r}): {what}")
    if changes:
        skipped = f"\nLeft out of the file were:\n{list_problems(coco.skipped)}" if coco.skipped else ""
        raise BrokenInputError(
            f"Expected {coco.source} and its images to hold what the audit set was chosen from, but {len(changes)} "
            f"thing{'s' * (len(changes) != 1)} changed. Restore the files, or choose a new set: audits of it will not "
            f"be comparable with earlier ones.\n{list_problems(changes)}{skipped}"
        )
    audited = replace(coco, images=tuple(known[image.id] for image in chosen.images))
    check_images(audited)
    return audited


def load_sample(chosen: AuditSet, coco: CocoDataset, image: CocoImage) -> AuditSample:
    """Load one image of the set.

    Raises:
        BrokenInputError: it cannot be read, or other objects than in the set are usable: it was chosen with another
            version of the rasteriser.
    """
    listed = {i.id: i.annotation_ids for i in chosen.images}[image.id]
    sample = audit_sample(coco, image, chosen.masks, chosen.min_size, chosen.max_size)
    usable = () if sample is None else sample.annotation_ids
    if sample is None or usable != listed:
        raise BrokenInputError(
            f"Expected annotations {list(listed)} of image id {image.id} to be the usable ones, as in the audit set, "
            f"but got {list(usable)}. Choose a new set with the installed versions."
        )
    return sample


def _annotations_sha256(image: CocoImage) -> str:
    objects = [[a.id, a.category_id, a.box, a.iscrowd, _plain(a.segmentation)] for a in image.annotations]
    return sha256_of_json([image.height, image.width, objects])


def _plain(segmentation: object) -> object:
    """Leave out of an RLE whatever is not read of it."""
    return (
        {"size": segmentation["size"], "counts": segmentation["counts"]}
        if isinstance(segmentation, dict)
        else segmentation
    )


def _changed(image: AuditImage, now: CocoImage | None, coco: CocoDataset) -> str:
    """Say what of an image is not as it was; empty if nothing."""
    if now is None:
        return "it is not in the file any more"
    changes = ["its image file"] if sha256_of(coco.images_dir / now.file_name) != image.sha256 else []
    if _annotations_sha256(now) != image.annotations_sha256:
        changes.append("its annotations")
    return " and ".join(changes)
