"""The records that travel between the parts.

Shapes, everywhere in this package: ``H, W`` height and width of the image that the detector sees, in pixels;
``G`` ground-truth objects of an image; ``K`` detections of an image; ``5`` the ``names.PARAMETERS``.
Boxes are XYXY in pixels of that image. Images are RGB, float32, 0 to 255, ``[3, H, W]``.
Labels are contiguous class indices from 0, in the order of the COCO file's category ids.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Detections:
    """What a detector returned for one image.

    Attributes:
        boxes: ``[K, 4]`` XYXY, pixels of the image that was given.
        scores: ``[K]`` class score of each box, 0 to 1.
        labels: ``[K]`` int64 class index of each box.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        """Refuse tensors whose lengths disagree."""
        count = self.scores.shape[0]
        if self.boxes.shape != (count, 4) or self.labels.shape != (count,):
            raise ValueError(
                "Expected boxes [K, 4], scores [K] and labels [K], but got "
                f"{tuple(self.boxes.shape)}, {tuple(self.scores.shape)} and {tuple(self.labels.shape)}."
            )

    def __len__(self) -> int:
        """Return the number of detections."""
        return int(self.scores.shape[0])

    @property
    def parameters(self) -> Tensor:
        """The five numbers of each detection, ``[K, 5]`` in the order of :data:`~odsg_lightning.names.PARAMETERS`."""
        return torch.cat([self.boxes, self.scores[:, None]], dim=1)

    def detach(self) -> "Detections":
        """Return the same detections without their graph."""
        return Detections(self.boxes.detach(), self.scores.detach(), self.labels.detach())


@dataclass(frozen=True)
class AuditSample:
    """One image of the audit set with its ground truth.

    Attributes:
        image: ``[3, H, W]`` RGB float32, 0 to 255, at the size the detector sees.
        boxes: ``[G, 4]`` XYXY, pixels of ``image``.
        labels: ``[G]`` int64 class indices.
        masks: ``[G, H, W]`` bool segmentation of each object.
        image_id: COCO image id.
        annotation_ids: COCO annotation id of each object, length ``G``.
        file_name: name for people; may be empty.
        category_names: name of each object's category, length ``G``; may be empty.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    masks: Tensor
    image_id: int
    annotation_ids: tuple[int, ...]
    file_name: str = ""
    category_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a sample whose parts do not fit together."""
        if self.image.ndim != 3 or self.image.shape[0] != 3 or not self.image.is_floating_point():
            raise ValueError(
                "Expected image to be a float tensor [3, H, W] with values 0 to 255, but got "
                f"{self.image.dtype} {tuple(self.image.shape)} (image id {self.image_id})."
            )
        count, size = len(self.annotation_ids), tuple(self.image.shape[1:])
        shapes = tuple(self.boxes.shape), tuple(self.labels.shape), tuple(self.masks.shape)
        if shapes != ((count, 4), (count,), (count, *size)):
            raise ValueError(
                f"Expected boxes [{count}, 4], labels [{count}] and masks [{count}, {size[0]}, {size[1]}] for "
                f"{count} annotation ids, but got {shapes[0]}, {shapes[1]} and {shapes[2]} "
                f"(image id {self.image_id})."
            )
        if self.category_names and len(self.category_names) != count:
            raise ValueError(
                f"Expected {count} category names or none, but got {len(self.category_names)} "
                f"(image id {self.image_id})."
            )


class LocalGradient(NamedTuple):
    """Gradients of one object's five numbers, on the part of the image outside of which they are zero.

    Attributes:
        values: ``[5, 3, h, w]`` d (x_min, y_min, x_max, y_max, score) / d image, RGB.
        top: image row of the first row of ``values``.
        left: image column of the first column of ``values``.
    """

    values: Tensor
    top: int = 0
    left: int = 0


@dataclass(frozen=True)
class ObjectSaliency:
    """The five saliency maps of one detected object.

    Attributes:
        maps: ``[5, H, W]``, in units of the parameter per grey level (pixels per grey level for the box, score per
            grey level for the score); all NaN where a map is undefined.
        matched_passes: in how many noisy passes the object was found again.
        n_samples: number of noisy passes that were made for this object; ``matched_passes / n_samples`` is its match
            rate.
    """

    maps: Tensor
    matched_passes: int
    n_samples: int

    @property
    def defined(self) -> Tensor:
        """``[5]`` bool: which maps are defined."""
        return self.maps.flatten(1).isfinite().all(dim=1)
