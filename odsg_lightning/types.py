"""The records that travel between the parts.

Shapes, everywhere in this package: ``H, W`` height and width of the image that the detector sees, in pixels;
``G`` ground-truth objects of an image; ``K`` detections of an image; ``5`` the ``names.PARAMETERS``.
Boxes are XYXY in pixels of that image. Images are RGB, float32, 0 to 255, ``[3, H, W]``.
Labels are contiguous class indices from 0, in the order of the COCO file's category ids.
"""

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from odsg_lightning.names import PARAMETERS


def _same_tensor(first: Tensor, second: object) -> bool:
    """Whether two tensors have the same values, wherever they lie; an undefined value (NaN) is the same as another."""
    if first is second or not isinstance(second, Tensor) or first.is_meta or second.is_meta:
        return first is second
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    first, second = first.detach().cpu(), second.detach().cpu()
    return bool(((first == second) | ((first != first) & (second != second))).all())


class _ComparedByValue:
    """Makes ``==`` of two records of tensors a bool; dataclasses would compare the tensors, which is none."""

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))  # type: ignore[arg-type]
        return all(_same_tensor(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)

    __hash__ = None  # type: ignore[assignment] # tensors can change


@dataclass(frozen=True, eq=False)
class Detections(_ComparedByValue):
    """What a detector returned for one image.

    Attributes:
        boxes: ``[K, 4]`` XYXY, pixels of the image that was given.
        scores: ``[K]`` class score of each box, 0 to 1.
        labels: ``[K]`` int64 class index of each box.

    Example:
        >>> detections = Detections(torch.zeros(3, 4), torch.tensor([0.9, 0.2, 0.7]), torch.tensor([0, 1, 0]))
        >>> len(detections[detections.scores > 0.5])
        2
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

    def __getitem__(self, index: int | slice | list[int] | Tensor) -> "Detections":
        """Return some of the detections, in the order asked for; their graph stays.

        Args:
            index: a position, a slice, positions, or a bool mask ``[K]``.
        """
        if isinstance(index, int):
            index = [index]
        return Detections(self.boxes[index], self.scores[index], self.labels[index])

    @property
    def parameters(self) -> Tensor:
        """The five numbers of each detection, ``[K, 5]`` in the order of :data:`~odsg_lightning.names.PARAMETERS`."""
        return torch.cat([self.boxes, self.scores[:, None]], dim=1)

    def number(self, index: int, parameter: int) -> Tensor:
        """Return one of a detection's five numbers by itself.

        Of :attr:`parameters`, which stacks boxes and scores, a backward pass would send zeros into the other one's part
        of the detector, which cost as much.

        Args:
            index: of the detection.
            parameter: position in :data:`~odsg_lightning.names.PARAMETERS`.
        """
        return self.boxes[index, parameter] if parameter < self.boxes.shape[1] else self.scores[index]

    def detach(self) -> "Detections":
        """Return the same detections without their graph."""
        return Detections(self.boxes.detach(), self.scores.detach(), self.labels.detach())


@dataclass(frozen=True, eq=False)
class Candidates(_ComparedByValue):
    """Anchors (RetinaNet) or regions of interest (Faster R-CNN) of one image, and the class that is asked of each.

    Attributes:
        regions: ``[K, 4]`` XYXY, pixels of the image.
        labels: ``[K]`` int64 class index.
        rows: ``[K]`` index among the anchors of all levels; -1 for a region of interest.
        against: ``[K]`` int64 class whose logit is subtracted, to ask why it is the one rather than the other; -1 to
            subtract nothing.
    """

    regions: Tensor
    labels: Tensor
    rows: Tensor
    against: Tensor

    def __len__(self) -> int:
        """Return their number."""
        return len(self.labels)

    def __getitem__(self, index: Tensor | list[int] | slice) -> "Candidates":
        """Return some of them, in the order asked for."""
        return Candidates(self.regions[index], self.labels[index], self.rows[index], self.against[index])


@dataclass(frozen=True, eq=False)
class AuditSample(_ComparedByValue):
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
        values: ``[5, 3, h, w]`` d (x_min, y_min, x_max, y_max, score) / d image, RGB; of several images ``[n, 5, 3, h,
            w]``.
        top: image row of the first row of ``values``.
        left: image column of the first column of ``values``.
        dropped: of trimmed windows an estimate, on the high side, of the share of a gradient's sum of magnitudes that
            they left out, the largest of the five; 0 of exact gradients.
    """

    values: Tensor
    top: int = 0
    left: int = 0
    dropped: float = 0.0


class LocalMaps(NamedTuple):
    """One look's maps of an object's five numbers, on the part of the image outside of which they are zero.

    Attributes:
        values: ``[5, h, w]``, not negative; of several images ``[n, 5, h, w]``.
        top: image row of the first row of ``values``.
        left: image column of the first column of ``values``.
        dropped: see :class:`LocalGradient`.
    """

    values: Tensor
    top: int = 0
    left: int = 0
    dropped: float = 0.0


class Feature(NamedTuple):
    """What one layer of a detector says of an image, and how the numbers of one candidate depend on it.

    Attributes:
        layer: name of the layer.
        activation: ``[C, h, w]``, on the clean image.
        gradients: ``[P, C, h, w]`` d number / d activation, of each number that was asked for.
        stride: pixels of the image for each cell; cell ``(i, j)`` stands for the pixels from ``(i * stride, j *
            stride)`` on. The last row and column may lie in the padding.
    """

    layer: str
    activation: Tensor
    gradients: Tensor
    stride: int


class Proposals(NamedTuple):
    """Everything that a detector takes for an object before it suppresses what overlaps.

    Attributes:
        boxes: ``[P, 4]`` XYXY, pixels of the image.
        probabilities: ``[P, classes]``, without the background.
    """

    boxes: Tensor
    probabilities: Tensor


@dataclass(frozen=True, eq=False)
class ObjectSaliency(_ComparedByValue):
    """The five saliency maps of one detected object.

    Attributes:
        maps: ``[5, H, W]``, not negative; all NaN where a map is undefined. Of gradients in units of the parameter per
            grey level (pixels per grey level for the box, score per grey level for the score); of other explainers as
            these say.
        matched_samples: in how many noise samples the object was detected again.
        n_samples: number of noise samples made for this object.
        parameters: which of the five maps the explainer gives at all; the others are NaN throughout.
        stopped: whether they ended with the match after which its maps had settled: ``tolerance`` of SmoothGrad.
        dropped: the largest :attr:`LocalGradient.dropped` of its samples; 0 of exact maps.
    """

    maps: Tensor
    matched_samples: int
    n_samples: int
    parameters: tuple[str, ...] = PARAMETERS
    stopped: bool = False
    dropped: float = 0.0
