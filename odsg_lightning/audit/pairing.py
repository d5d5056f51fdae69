"""Which detection belongs to which object, and what to say where hardly any does."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.saliency.matching import match_one_to_one
from odsg_lightning.types import AuditSample, Detections

_FEW = 0.25  # of the objects paired: an audit of fewer says why


def pair_detections(sample: AuditSample, detections: Detections, config: AuditConfig) -> tuple[Tensor, Tensor]:
    """Pair each ground-truth object with at most one detection: same class, enough overlap, score above the threshold.

    Returns:
        ``[G]`` index into ``detections``, -1 where the object is missed, and ``[G]`` IoU, NaN where missed.
    """
    positions = (detections.scores.detach() > config.score_threshold).nonzero().flatten()
    confident = detections[positions]
    matches, ious = match_one_to_one(sample.boxes, sample.labels, confident.boxes, confident.labels, config.pair_iou)
    paired = matches >= 0
    matches[paired] = positions.cpu()[matches[paired]]
    return matches, ious


@dataclass(frozen=True)
class PairingCounts:
    """What an image's detections have to do with its objects.

    Attributes:
        confident: number of detections above the score threshold.
        other_class: how many of these overlap an object of another class enough, and none of their own.
        best_score: highest score, below the threshold too, of a detection that overlaps an object of its class enough;
            NaN without one.
    """

    confident: int
    other_class: int
    best_score: float


def pairing_counts(sample: AuditSample, detections: Detections, config: AuditConfig) -> PairingCounts:
    """Count them, over all objects of an image.

    Example:
        >>> box = torch.tensor([[0.0, 0, 8, 8]])
        >>> mask = torch.ones(1, 8, 8, dtype=torch.bool)
        >>> sample = AuditSample(torch.zeros(3, 8, 8), box, torch.tensor([0]), mask, 1, (1,))
        >>> pairing_counts(sample, Detections(box, torch.tensor([0.75]), torch.tensor([1])), AuditConfig())
        PairingCounts(confident=1, other_class=1, best_score=nan)
    """
    scores, labels = detections.scores.detach().cpu(), detections.labels.cpu()
    overlaps = box_iou(sample.boxes, detections.boxes.detach().cpu()) >= config.pair_iou
    same_class = sample.labels[:, None] == labels[None]
    right = (overlaps & same_class).any(dim=0)
    confident = scores > config.score_threshold
    return PairingCounts(
        int(confident.sum()),
        int((confident & overlaps.any(dim=0) & ~right).sum()),
        float(scores[right].max()) if right.any() else torch.nan,
    )


def why_few_are_paired(
    paired: int, objects: int, images: Iterable[PairingCounts | None], config: AuditConfig
) -> str | None:
    """Say in one line why an audit paired nothing or little; None if it paired at least a quarter of its objects.

    Args:
        paired: number of objects with a detection.
        objects: number of audited objects.
        images: counts of each image; None where they are not known, because another call audited it.
        config: of the audit.

    Example:
        >>> print(why_few_are_paired(0, 40, [PairingCounts(31, 28, 0.25)], AuditConfig()))
        0 of 40 objects were paired with a detection. Detections above the score threshold of 0.5: 31, of which 28 \
overlap an object of another class (are the labels off by one?). Best score of a detection of the right class and \
place: 0.25.
    """
    if paired >= _FEW * objects:
        return None
    every = list(images)
    known = [image for image in every if image is not None]
    confident, other = sum(image.confident for image in known), sum(image.other_class for image in known)
    scores = [image.best_score for image in known if image.best_score == image.best_score]
    where = "" if len(known) == len(every) else f" (in the {len(known)} of {len(every)} images audited just now)"
    hint = " (are the labels off by one?)" if 2 * other > confident else ""
    best = f"{max(scores):.2g}" if scores else "there is none"
    return (
        f"{paired} of {objects} objects were paired with a detection. Detections above the score threshold of "
        f"{config.score_threshold:g}{where}: {confident}, of which {other} overlap an object of another class{hint}. "
        f"Best score of a detection of the right class and place: {best}."
    )
