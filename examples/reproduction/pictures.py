"""Which pictures and objects the experiment looks at, and how they are loaded."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from odsg_lightning.data.audit_samples import audit_sample, seeded_order, splitmix64, usable_objects
from odsg_lightning.data.coco import CocoDataset, read_coco
from odsg_lightning.data.coco_records import Annotation, CocoImage
from odsg_lightning.errors import UserInputError
from odsg_lightning.types import AuditSample

_BORDER = 1.0  # pixels: a box that ends so near to the border is cut off by it


@dataclass(frozen=True)
class Selection:
    """Which objects are looked at.

    Attributes:
        images: at most so many, chosen by ``seed``.
        classes: so many, chosen by ``seed``; None for all.
        objects_per_image: at most so many, chosen by ``seed``; None for all.
        min_area: pixels of the mask, in the picture as it is stored.
        seed: of the choice, which depends on nothing but the ids.
    """

    images: int
    classes: int | None = None
    objects_per_image: int | None = None
    min_area: int = 0
    seed: int = 0


@dataclass
class Pictures:
    """The chosen pictures.

    Attributes:
        coco: the data set.
        min_size: shorter edge as the detector sees it.
        max_size: upper limit of the longer edge.
        objects: annotation ids of each chosen picture, by its id.
        classes: names of the chosen classes.
        left_out: in the pictures that were looked through, how many objects of these classes, and why.
    """

    coco: CocoDataset
    min_size: int
    max_size: int
    objects: dict[int, list[int]]
    classes: list[str]
    left_out: Counter[str] = field(default_factory=Counter)

    def load(self, image_id: int) -> AuditSample:
        """Return a picture and its chosen objects."""
        (image,) = (image for image in self.coco.images if image.id == image_id)
        sample = audit_sample(self.coco, image, "segmentation", self.min_size, self.max_size)
        assert sample is not None  # it was chosen because it has objects
        keep = [row for row, number in enumerate(sample.annotation_ids) if number in self.objects[image_id]]
        return AuditSample(
            sample.image, sample.boxes[keep], sample.labels[keep], sample.masks[keep], image_id,
            tuple(sample.annotation_ids[row] for row in keep), sample.file_name,
            tuple(sample.category_names[row] for row in keep),
        )  # fmt: skip


def choose(annotations: Path, images: Path, size: Sequence[int], selection: Selection) -> Pictures:
    """Choose pictures and objects.

    Args:
        annotations: COCO JSON.
        images: folder.
        size: shorter edge as the detector sees it, and upper limit of the longer one.
        selection: which.

    Raises:
        UserInputError: no object is left.
    """
    coco = read_coco(annotations, images)
    labels = sorted(range(len(coco.category_ids)), key=lambda label: splitmix64(selection.seed ^ label))
    labels = sorted(labels[: selection.classes])
    pictures = Pictures(coco, size[0], size[1], {}, [coco.category_names[label] for label in labels])
    for image in seeded_order(coco, selection.seed):
        chosen = _objects(image, labels, selection, pictures)
        if chosen:
            pictures.objects[image.id] = chosen
        if len(pictures.objects) == selection.images:
            break
    if not pictures.objects:
        raise UserInputError(
            f"Expected {annotations} to have objects of at least {selection.min_area} pixels that do not touch the "
            f"border, of the classes {', '.join(pictures.classes)}, but it has none. Try another --seed or more "
            "--classes."
        )
    return pictures


def _objects(image: CocoImage, labels: list[int], selection: Selection, pictures: Pictures) -> list[int]:
    of_class = [annotation for annotation in image.annotations if annotation.label in labels]
    masks = {a.id: mask for a, mask in usable_objects(image, "segmentation", pictures.min_size, pictures.max_size)}
    kept = []
    for annotation in of_class:
        reason = _why_not(annotation, image, masks.get(annotation.id), selection.min_area)
        if reason:
            pictures.left_out[reason] += 1
        else:
            kept.append(annotation.id)
    kept.sort(key=lambda number: splitmix64(splitmix64(selection.seed) ^ number))
    most = selection.objects_per_image or len(kept)
    pictures.left_out[f"more than {most} in the picture"] += max(0, len(kept) - most)
    return sorted(kept[:most])


def _why_not(annotation: Annotation, image: CocoImage, mask: torch.Tensor | None, min_area: int) -> str | None:
    if annotation.iscrowd:
        return "a crowd"
    if mask is None:
        return "without a mask"
    x_min, y_min, x_max, y_max = annotation.box
    near = min(x_min, y_min, image.width - x_max, image.height - y_max)
    if near < _BORDER:
        return "touching the border"
    share = float(mask.float().mean())
    return f"below {min_area} pixels" if share * image.width * image.height < min_area else None
