"""The fixed audit set: the same images and objects in every process, run and version."""

from collections.abc import Sequence
from typing import Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from odsg_lightning.data.coco import CocoDataset
from odsg_lightning.data.coco_records import Annotation, CocoImage
from odsg_lightning.data.dataset import box_mask, resize_boxes, resize_image, resized_mask, shortest_edge_size
from odsg_lightning.data.images import load_image
from odsg_lightning.errors import BrokenInputError, UserInputError
from odsg_lightning.types import AuditSample

MaskSource = Literal["segmentation", "box"]

_MAX_MASK_BYTES = 4 * 2**30


def make_audit_samples(
    coco: CocoDataset,
    *,
    image_ids: Sequence[int] | None = None,
    count: int = 16,
    seed: int = 0,
    masks: MaskSource = "segmentation",
    min_size: int = 800,
    max_size: int = 1333,
) -> list[AuditSample]:
    """Choose the audit images and load them with their ground truth at the size that the network sees.

    An object is usable if it is no crowd region and its mask, at network size, has at least one pixel; an image is
    if it has a usable object. Nothing here draws from a global random stream.

    Args:
        coco: the validation set.
        image_ids: the audit images; None lets ``seed`` choose ``count`` of the usable ones.
        count: how many images to choose.
        seed: which images to choose. The choice depends on the seed and each image's own id, so that images added to
            the file change little.
        masks: ``"segmentation"``, or ``"box"`` for filled boxes where the file has no segmentations.
        min_size: length of the shorter edge, in pixels.
        max_size: upper limit of the longer edge, in pixels.

    Returns:
        Samples in ascending image id, their objects in ascending annotation id. Fewer than ``count``, with a warning,
        if the file has no more.

    Raises:
        UserInputError: ``image_ids`` is empty, or names an image that is unknown or has no usable object; the file has
            no segmentations and ``masks`` is ``"segmentation"``.
        BrokenInputError: no image is usable.
    """
    require_masks(coco, masks)
    if image_ids is not None:
        return _explicit_samples(coco, image_ids, masks, min_size, max_size)
    samples: list[AuditSample] = []
    for image in seeded_order(coco, seed):
        sample = audit_sample(coco, image, masks, min_size, max_size)
        if sample is not None:
            samples.append(sample)
        if len(samples) == count:
            break
    if not samples:
        raise no_usable_image(coco)
    if len(samples) < count:
        rank_zero_warn(
            f"Expected {count} audit images, but {coco.source} has only {len(samples)} with a usable object: all of "
            "them are audited. Fewer than 16 images tell little about a change."
        )
    return sorted(samples, key=lambda sample: sample.image_id)


def require_masks(coco: CocoDataset, masks: MaskSource) -> None:
    """Refuse a file without segmentations if they are what saliency is to be measured against."""
    if masks == "segmentation" and not any(a.segmentation for image in coco.images for a in image.annotations):
        raise UserInputError(
            f"Expected {coco.source} to have segmentations for the audit, but it has none that can be used. Give a "
            'file with segmentations, or set audit_masks="box" to measure against filled boxes (of `odsg audit-set` '
            "--masks box, of `odsg fit` --data.audit_masks box)."
        )


def no_usable_image(coco: CocoDataset) -> BrokenInputError:
    """Return the error to raise where there is nothing to audit."""
    return BrokenInputError(
        f"Expected {coco.source} to have an image with a usable object for the audit, but none of its "
        f"{len(coco.images)} images has an object that is no crowd region and whose mask is not empty."
    )


def seeded_order(coco: CocoDataset, seed: int) -> list[CocoImage]:
    """Return the images in an order that depends on the seed and each image's own id."""
    return sorted(coco.images, key=lambda image: splitmix64(splitmix64(seed) ^ image.id))


def splitmix64(value: int) -> int:
    """Mix the bits of an integer: SplitMix64 (Steele, Lea and Flood 2014), the first output for the state ``value``.

    Python's ``hash`` leaves integers as they are, and NumPy may change its permutations between versions.
    """
    mask = (1 << 64) - 1
    value = (value + 0x9E3779B97F4A7C15) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return value ^ (value >> 31)


def _explicit_samples(
    coco: CocoDataset, image_ids: Sequence[int], masks: MaskSource, min_size: int, max_size: int
) -> list[AuditSample]:
    if not image_ids:
        raise UserInputError(
            "Expected audit_image_ids to name at least one image, but it is empty. Leave it out instead."
        )
    images = {image.id: image for image in coco.images}
    unknown = sorted(set(image_ids) - images.keys())
    if unknown:
        raise UserInputError(
            f"Expected audit_image_ids to be image ids of {coco.source}, but it has no images {unknown}."
        )
    samples = {i: audit_sample(coco, images[i], masks, min_size, max_size) for i in sorted(set(image_ids))}
    unusable = [image_id for image_id, sample in samples.items() if sample is None]
    if unusable:
        raise UserInputError(
            f"Expected audit_image_ids to name images of {coco.source} with at least one usable object (no crowd "
            f"region, mask not empty), but images {unusable} have none."
        )
    return [sample for sample in samples.values() if sample is not None]


def audit_sample(
    coco: CocoDataset, image: CocoImage, masks: MaskSource, min_size: int, max_size: int
) -> AuditSample | None:
    """Load one image with its usable objects; None if it has none."""
    usable = usable_objects(image, masks, min_size, max_size)
    if not usable:
        return None
    objects = [annotation for annotation, _ in usable]
    original, size = (image.height, image.width), shortest_edge_size(image.height, image.width, min_size, max_size)
    boxes = torch.tensor([annotation.box for annotation in objects], dtype=torch.float32)
    return AuditSample(
        # Resized as uint8, so that the audit sees the very pixels of the validation.
        image=resize_image(load_image(coco.images_dir / image.file_name, original), size).float(),
        boxes=resize_boxes(boxes, original, size),
        labels=torch.tensor([annotation.label for annotation in objects], dtype=torch.int64),
        masks=torch.stack([mask for _, mask in usable]),
        image_id=image.id,
        annotation_ids=tuple(annotation.id for annotation in objects),
        file_name=image.file_name,
        category_names=tuple(coco.category_names[annotation.label] for annotation in objects),
    )


def usable_objects(
    image: CocoImage, masks: MaskSource, min_size: int, max_size: int
) -> list[tuple[Annotation, Tensor]]:
    """Return the objects that can be audited, in ascending id, each with its mask ``[H, W]`` at network size.

    Raises:
        UserInputError: the masks of all its objects would take gigabytes.
    """
    original, size = (image.height, image.width), shortest_edge_size(image.height, image.width, min_size, max_size)
    candidates = [a for a in image.annotations if not a.iscrowd and (masks == "box" or a.segmentation)]
    if len(candidates) * size[0] * size[1] > _MAX_MASK_BYTES:
        raise UserInputError(
            f"Expected the masks of an audit image to take at most {_MAX_MASK_BYTES >> 30} GiB, but image id "
            f"{image.id} has {len(candidates)} objects at {size[0]} x {size[1]} pixels. Audit it at a smaller size, or "
            "leave it out."
        )
    make_mask = _box_mask if masks == "box" else _segmentation_mask
    masked = ((annotation, make_mask(annotation, original, size)) for annotation in candidates)
    return [(annotation, mask) for annotation, mask in masked if mask.any()]


def _segmentation_mask(annotation: Annotation, original: tuple[int, int], size: tuple[int, int]) -> Tensor:
    assert annotation.segmentation is not None  # what has none is no candidate
    return resized_mask(annotation.segmentation, original, size)


def _box_mask(annotation: Annotation, original: tuple[int, int], size: tuple[int, int]) -> Tensor:
    return box_mask(torch.tensor(annotation.box), original, size)
