"""What all checks look at: the detector's answer for one image, and which of its detections are the same elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from odsg_lightning.adapter_check.subject import Subject
from odsg_lightning.errors import UserInputError
from odsg_lightning.types import AuditSample, Detections

N_BEST = 10
"""How many detections are looked at; DETR-likes return hundreds, most of them of nothing."""


@dataclass(frozen=True)
class Truth:
    """The annotations of the image: boxes ``[G, 4]`` XYXY in its pixels, labels ``[G]`` from 0."""

    boxes: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Look:
    """One image and what is detected there.

    Attributes:
        subject: the adapter.
        image: ``[3, H, W]``.
        found: all detections.
        truth: annotations, if any were given.
        num_classes: number of classes, if it was given.
    """

    subject: Subject
    image: Tensor
    found: Detections
    truth: Truth | None
    num_classes: int | None

    @property
    def best(self) -> Detections:
        """The detections with the highest scores, the best first."""
        return best_of(self.found)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the image."""
        return self.image.shape[2], self.image.shape[1]


def best_of(found: Detections, count: int = N_BEST) -> Detections:
    """Return the detections with the highest scores, the best first."""
    return found[found.scores.argsort(descending=True, stable=True)[:count]]


def truth_of(annotations: AuditSample | Mapping[str, Any] | None, device: torch.device) -> Truth | None:
    """Return annotations as boxes and labels.

    Raises:
        UserInputError: they are none.
    """
    if annotations is None:
        return None
    if isinstance(annotations, AuditSample):
        return Truth(annotations.boxes.to(device), annotations.labels.to(device))
    try:
        boxes, labels = (torch.as_tensor(annotations[name], device=device) for name in ("boxes", "labels"))
        return Truth(boxes.float().reshape(len(labels), 4), labels.long())
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise UserInputError(
            "Expected `annotations` to be an AuditSample, or a mapping with 'boxes' [G, 4] XYXY and 'labels' [G] from "
            f"0, but got {type(annotations).__name__} ({type(error).__name__}: {error})."
        ) from error


def distances(boxes: Tensor, labels: Tensor, among: Detections) -> Tensor:
    """Return, for each box ``[K, 4]``, how far its four numbers are from the nearest of the same class, at most.

    In pixels, ``[K]``; infinite without one of that class.
    """
    far = torch.full((len(labels), 1), torch.inf, device=boxes.device, dtype=boxes.dtype)
    apart = (boxes[:, None] - among.boxes[None].to(boxes)).abs().amax(2)
    apart = apart.masked_fill(labels[:, None] != among.labels[None], torch.inf)
    return torch.cat([apart, far], 1).amin(1)


def confidence(found: Detections, truth: Truth | None) -> float:
    """Return how sure the detector is: of the annotated objects, whatever its labels; of its best detection otherwise.

    Mean over the annotations of the highest score of a detection with an IoU of at least 0.5, 0 where there is none.
    """
    if len(found) == 0:
        return 0.0
    scores = found.scores.float().clamp(0, 1)
    if truth is None or len(truth.labels) == 0:
        return float(scores.amax())
    hit = box_iou(truth.boxes, found.boxes.to(truth.boxes)) >= 0.5
    return float((hit * scores).amax(1).mean())
