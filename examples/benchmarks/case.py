"""What a variant is measured on, and what its measurement says."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import torch
from planted import SIGMA, Planted
from torch import Tensor
from torchvision.ops import box_iou

from odsg_lightning.detectors.candidates import Detectron2Candidates
from odsg_lightning.detectors.detectron2 import Detectron2Adapter
from odsg_lightning.names import PARAMETERS
from odsg_lightning.saliency.matching import match_one_to_one
from odsg_lightning.saliency.noise import image_generator, noisy_images
from odsg_lightning.types import Detections


@dataclass(frozen=True)
class Cost:
    """What one object costs, in the unit of ``read``; NaN for a part that was not told from the others."""

    forward: float
    head: float
    backbone: float

    @property
    def total(self) -> float:
        """All parts together."""
        return sum(part for part in (self.forward, self.head, self.backbone) if part == part)


class Case:
    """One noisy picture, and where the planted objects are among its detections.

    Args:
        planted: from :func:`planted.plant`.
        outputs: how many outputs the plain variants differentiate; the others are taken to cost the same.
    """

    def __init__(self, planted: Planted, outputs: int) -> None:
        """See the class for the arguments."""
        self.model = planted.model
        self.detector = Detectron2Adapter(planted.model)
        self.count = len(planted.indices)
        self.outputs = min(outputs, self.count * len(PARAMETERS))
        self.clean = planted.image
        (self.image,) = noisy_images(planted.image, 1, SIGMA, image_generator(0, 1))
        with torch.no_grad():
            (found,) = self.detector.detect([planted.image])
        self._boxes, self._labels = found.boxes[planted.indices], found.labels[planted.indices]
        behind, candidates = self.detector.candidates_of_detections(planted.image)
        self._candidates = candidates[self.find(behind)]

    def only(self, objects: Sequence[int]) -> "Case":
        """Return the same case with some of its objects."""
        part = copy(self)
        part.count = len(objects)
        part._boxes, part._labels = self._boxes[list(objects)], self._labels[list(objects)]
        part._candidates = self._candidates[list(objects)]
        return part

    def samples(self, count: int) -> list[Tensor]:
        """Return noisy pictures, of which :attr:`image` is the first."""
        return list(noisy_images(self.clean, count, SIGMA, image_generator(0, 1)))

    def track(self, several: Sequence[Detections]) -> list[list[int]]:
        """Return where each planted object is among the detections of each picture, -1 where it was not found."""
        columns = [
            match_one_to_one(self._boxes, self._labels, found.boxes, found.labels, 0.7)[0].tolist() for found in several
        ]
        return [list(row) for row in zip(*columns, strict=True)]

    @property
    def candidates(self) -> Detectron2Candidates:
        """The detector that returns the logits and unclipped boxes of the planted objects' anchors or regions."""
        return Detectron2Candidates(self.detector, self._candidates)

    def find(self, detections: Detections) -> list[int]:
        """Return the planted objects among detections; by place, as equal scores may change their order."""
        matches, _ = match_one_to_one(self._boxes, self._labels, detections.boxes, detections.labels, 0.7)
        if (matches < 0).any():
            raise RuntimeError("Expected every planted object to be found in the noisy picture. Try another --seed.")
        found: list[int] = matches.tolist()
        return found

    def similarity(self, detections: Detections) -> Tensor:
        """Return D-RISE's weight of a masked picture, ``[K]``: best IoU times score among detections of the class."""
        match = box_iou(self._boxes, detections.boxes) * detections.scores
        return (match * (self._labels[:, None] == detections.labels)).amax(1) if len(detections) else match.sum(1)
