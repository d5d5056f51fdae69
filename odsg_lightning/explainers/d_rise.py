"""D-RISE: which pixels have to be seen for a detection to be found again, by randomly masked copies of the image.

Petsiuk et al., "Black-box Explanation of Object Detectors via Saliency Maps", CVPR 2021.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_iou, clip_boxes_to_image

from odsg_lightning.errors import UserInputError
from odsg_lightning.explainers.candidate import on_five
from odsg_lightning.explainers.features import normalised
from odsg_lightning.saliency.protocol import CandidateOutputs, Detector, ProposingDetector
from odsg_lightning.types import Detections, ObjectSaliency, Proposals

Hidden = Literal["black", "mean"]

_FEWEST = 200
"""Masks before a correlation of their halves is believed, and between two looks at it."""


@dataclass(frozen=True)
class DRISE:
    """One map of a detection as a whole, box and class; it stands in the place of the score's.

    A masked copy of the image weighs as much as the proposal in it that fits the detection best: IoU of the boxes,
    times cosine of the class probabilities. The map is the mean weight of the copies that show a pixel, brought to 0 to
    1; the paper's plain sum differs where some pixels are shown more often. A detector that does not offer its
    proposals is asked for its detections, and 1 or 0 for the same or another class takes the place of the cosine. The
    paper's objectness is left out.

    Attributes:
        n_masks: masked copies; with ``stop_at``, the most.
        cells: cells of a mask's grid along each side of the image.
        keep: probability that a cell shows the image.
        hidden: what the rest shows: ``"black"``, as published, or ``"mean"``, the picture's mean colour. A detector of
            plain shapes takes black patches for objects: what hides an object is then found in its place, and the map
            is dark there.
        stop_at: None for all copies, or the correlation (Pearson) between the maps of the even and of the odd copies
            from which on, for all objects, no more are made.
        batch_size: copies that are shown to the detector at once.

    Raises:
        UserInputError: a value out of range.

    Example:
        >>> DRISE(n_masks=1000).samples
        1000
    """

    n_masks: int = 5000
    cells: int = 16
    keep: float = 0.5
    hidden: Hidden = "black"
    stop_at: float | None = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name in ("n_masks", "cells", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserInputError(f"Expected argument `{name}` to be an integer of at least 1, but got {value!r}.")
        if self.hidden not in get_args(Hidden):
            raise UserInputError(
                f"Expected argument `hidden` to be one of {get_args(Hidden)}, but got {self.hidden!r}."
            )
        for name in ("keep", "stop_at"):
            value = getattr(self, name)
            if not (name == "stop_at" and value is None) and not 0 < value < 1:
                raise UserInputError(f"Expected argument `{name}` to be between 0 and 1, but got {value!r}.")

    @property
    def parameters(self) -> tuple[str, ...]:
        """The score's alone: the map does not tell the edges of the box apart."""
        return ("score",)

    @property
    def samples(self) -> int:
        """:attr:`n_masks`."""
        return self.n_masks

    def explain(
        self,
        detector: Detector,
        image: Tensor,
        reference: Detections,
        indices: Sequence[int],
        *,
        generator: torch.Generator,
        match_iou: float | None = 0.7,
        on_sample: Callable[[], None] = lambda: None,
    ) -> list[ObjectSaliency]:
        """See :class:`odsg_lightning.explainers.base.Explainer`; ``matched_samples`` are the copies with a weight."""
        if not indices:
            return []
        if isinstance(detector, CandidateOutputs) and not isinstance(detector, ProposingDetector):
            raise UserInputError(
                f"Expected a detector that can be asked what else it sees, but {type(detector).__name__} returns fixed "
                "candidates alone: explain its target='output'."
            )
        classes = int(reference.labels.max()) + 2  # of a detector that tells no probabilities: these, and any other
        (clean,) = _proposals(detector, [image], classes)
        size = image.shape[1], image.shape[2]
        asked = reference[list(indices)].detach()
        boxes = clip_boxes_to_image(asked.boxes, size)  # as those of proposals are
        targets = _targets(Detections(boxes, asked.scores, asked.labels), clean)
        masks = random_masks(self.n_masks, self.cells, self.keep, size, generator)
        fill = image.mean(dim=(1, 2), keepdim=True) if self.hidden == "mean" else image.new_zeros(3, 1, 1)
        sums = image.new_zeros(2, len(indices), *size)  # over the even masks, and over the odd ones
        shown = image.new_zeros(2, *size)
        weighted, made = [0] * len(indices), 0
        while batch := [mask.to(image) for mask in islice(masks, self.batch_size)]:
            found = _proposals(detector, [torch.lerp(fill, image, mask) for mask in batch], classes)
            for mask, of_copy in zip(batch, found, strict=True):
                weights = proposal_weights(targets, of_copy)
                sums[made % 2] += weights[:, None, None] * mask
                shown[made % 2] += mask
                weighted = [count + int(weight > 0) for count, weight in zip(weighted, weights, strict=True)]
                made += 1
                on_sample()
            look = made // _FEWEST > (made - len(batch)) // _FEWEST
            if self.stop_at is not None and look and _agree(sums, shown, self.stop_at):
                break
        for _ in masks:  # what is drawn later does not depend on when this stopped
            on_sample()
        maps = _means(sums.sum(dim=0), shown.sum(dim=0))
        return [
            on_five([normalised(of_object)], self.parameters, count, made)
            for of_object, count in zip(maps, weighted, strict=True)
        ]


def random_masks(
    count: int, cells: int, keep: float, size: tuple[int, int], generator: torch.Generator
) -> Iterator[Tensor]:
    """Yield masks ``[H, W]``, 0 hidden to 1 shown: grids of random cells, bilinear, at a random offset.

    Args:
        count: how many.
        cells: cells of the image along each side; the grid has as many, and is stretched to one more.
        keep: probability of a cell to be 1.
        size: height and width.
        generator: on the CPU.
    """
    height, width = size
    cell = math.ceil(height / cells), math.ceil(width / cells)
    full = (cells + 1) * cell[0], (cells + 1) * cell[1]
    for _ in range(count):
        grid = (torch.rand(1, 1, cells, cells, generator=generator) < keep).float()
        top, left = (int(torch.randint(side, (1,), generator=generator)) for side in cell)
        mask = functional.interpolate(grid, full, mode="bilinear", align_corners=False)[0, 0]
        yield mask[top : top + height, left : left + width]


def proposal_weights(targets: Proposals, found: Proposals) -> Tensor:
    """Return, for each of ``K`` targets, the largest IoU times cosine among the proposals of an image, ``[K]``.

    Example:
        >>> target = Proposals(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[1.0, 0.0]]))
        >>> found = Proposals(torch.tensor([[0.0, 0, 10, 5], [0, 0, 10, 10]]), torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
        >>> proposal_weights(target, found)  # 1/2 * 0.6; the second fits, but is another class
        tensor([0.3000])
    """
    if not len(found.boxes):
        return targets.boxes.new_zeros(len(targets.boxes))
    cosine = functional.normalize(targets.probabilities, dim=1) @ functional.normalize(found.probabilities, dim=1).T
    weights: Tensor = box_iou(targets.boxes, found.boxes) * cosine
    return weights.amax(dim=1)


def _proposals(detector: Detector, images: list[Tensor], classes: int) -> list[Proposals]:
    """Return the proposals of each image; of a detector without them, its detections, with 0 and 1 as probabilities.

    Args:
        detector: what is explained.
        images: of one size.
        classes: how many are told apart without probabilities; all from the last one on are the same.
    """
    with torch.no_grad():
        if isinstance(detector, ProposingDetector):
            return detector.proposals(images)
        return [
            Proposals(found.boxes, functional.one_hot(found.labels.clamp(max=classes - 1), classes).to(found.boxes))
            for found in detector.detect(images)
        ]


def _targets(reference: Detections, clean: Proposals) -> Proposals:
    """Return what is looked for: each box, with the probabilities of the proposal that is this object, or of its class.

    It is the proposal of the same class with the highest IoU, if that is at least 1/2.
    """
    probabilities = functional.one_hot(reference.labels, clean.probabilities.shape[1]).to(reference.boxes)
    if len(clean.boxes):
        same = clean.probabilities.argmax(dim=1) == reference.labels[:, None].to(clean.boxes.device)
        iou, best = (box_iou(reference.boxes, clean.boxes) * same).max(dim=1)
        probabilities = torch.where((iou >= 0.5)[:, None], clean.probabilities[best], probabilities)
    return Proposals(reference.boxes, probabilities)


def _means(sums: Tensor, shown: Tensor) -> Tensor:
    """Return the mean weight of the copies that show each pixel; 0 where none does."""
    return sums / shown.where(shown > 0, 1)


def _agree(sums: Tensor, shown: Tensor, correlation: float) -> bool:
    """Whether the maps of both halves correlate at least so much, for all objects."""
    even, odd = (
        (maps - maps.mean(dim=1, keepdim=True)) for maps in (_means(sums[i], shown[i]).flatten(1) for i in (0, 1))
    )
    return bool((functional.cosine_similarity(even, odd, dim=1) >= correlation).all())
