"""The maps of one picture: every way of making them that the experiment compares, in one file for each picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.pairing import pair_detections
from odsg_lightning.detectors.resolve import resolve_adapter
from odsg_lightning.explainers.gradient import Gradient
from odsg_lightning.explainers.smoothgrad import SmoothGrad
from odsg_lightning.saliency.early_stop import correlation_distance
from odsg_lightning.saliency.masks import defined_maps
from odsg_lightning.saliency.noise import image_generator
from odsg_lightning.saliency.protocol import Detector
from odsg_lightning.types import AuditSample, Candidates, Detections

_MIRRORED = [2, 1, 0, 3, 4]  # what x_min says of a mirrored picture is about the right edge


@dataclass(frozen=True)
class Arm:
    """One way of making maps.

    Attributes:
        name: of its maps in the files.
        target: ``"output"``, the paper's second method, or ``"logit"``, its first.
        share: of the noisy copies that are averaged; 0 for one pass over the picture itself.
        picture: ``"mirrored"`` for maps of the mirrored picture, turned back, x_min and x_max exchanged.
        network: ``"untrained"`` for the same anchors and regions of a network that has learned nothing.
        every: 2 for maps of every second picture only.
    """

    name: str
    target: str
    share: float
    picture: str = "as it is"
    network: str = "trained"
    every: int = 1


PRIMARY, ONE_PASS = "method 2, smoothed", "method 1, one pass"
MIRRORED, UNTRAINED = "mirrored picture", "untrained network"
ARMS = (
    Arm(PRIMARY, "output", share=1),
    Arm("method 2, one pass", "output", share=0),
    # The same map as the primary one where nothing was clipped, up to what matching changes: fewer pictures do.
    Arm("method 1, smoothed", "logit", share=1, every=8),
    Arm(ONE_PASS, "logit", share=0),
    # Controls need less: maps of 5 copies correlate 0.97 with those of many.
    Arm(MIRRORED, "output", share=0.5, picture="mirrored", every=4),
    Arm(UNTRAINED, "logit", share=0.2, network="untrained", every=4),
)


def maps_of_picture(
    model: nn.Module, untrained: nn.Module, sample: AuditSample, turn: int, samples: int, config: AuditConfig
) -> dict[str, Any]:
    """Explain the objects of a picture that are detected, in every way.

    Args:
        model: what holds the detector, in evaluation mode.
        untrained: a detector of the same architecture that has learned nothing.
        sample: the picture and its ``G`` objects, ``K`` of which are detected.
        turn: which picture it is, from 0.
        samples: noisy copies.
        config: when an object counts as detected.

    Returns:
        Arrays by name: ``masks`` ``[G, H, W]``, ``labels``, ``boxes``; ``detected`` ``[K]`` their indices; ``scores``,
        ``found``; and for each arm of this picture ``maps/<arm>`` ``[K, 5, H, W]`` float16, divided by their maxima
        ``peaks/<arm>``, ``matched/<arm>`` and, of an arm with noise, ``halves/<arm>`` ``[K, 5]``: the correlation of
        the maps of one half of the copies with those of the other.
    """
    adapters = {"trained": resolve_adapter(model), "untrained": resolve_adapter(untrained)}
    mirrored = AuditSample(
        sample.image.flip(-1), _mirrored_boxes(sample), sample.labels, sample.masks.flip(-1), sample.image_id,
        sample.annotation_ids,
    )  # fmt: skip
    pictures = {"as it is": sample, "mirrored": mirrored}
    adapter: Any = adapters["trained"]
    found = {name: adapter.detect([picture.image])[0].detach() for name, picture in pictures.items()}
    pairs = {name: pair_detections(picture, found[name], config)[0] for name, picture in pictures.items()}
    detected = (pairs["as it is"] >= 0).nonzero().flatten()
    rows = pairs["as it is"][detected]
    content: dict[str, Any] = {
        "image": sample.image.round().clamp(0, 255).to(torch.uint8).cpu().numpy(),
        "masks": sample.masks.cpu().numpy(),
        "labels": sample.labels.cpu().numpy(),
        "boxes": sample.boxes.cpu().numpy(),
        "annotation_ids": np.array(sample.annotation_ids),
        "detected": detected.numpy(),
        "scores": found["as it is"].scores[rows].cpu().numpy(),
        "found": found["as it is"].boxes[rows].cpu().numpy(),
    }
    if not len(detected):
        return content
    candidates = adapter.candidates_of_detections(sample.image)[1][rows]
    for arm in (arm for arm in ARMS if turn % arm.every == 0):
        picture = pictures[arm.picture]
        if arm.target == "logit":
            explained = adapters[arm.network].outputs_of(candidates)  # type: ignore[attr-defined]
            saliency = _explained(explained, picture, _listed(candidates), range(len(rows)), arm, samples, None)
        else:
            again = pairs[arm.picture][detected]
            saliency = _explained(adapter, picture, found[arm.picture], again.tolist(), arm, samples, 0.7)
        content |= _arrays(saliency, arm)
    return content


@dataclass
class _Saliency:
    maps: Tensor  # [K, 5, H, W]
    matched: Tensor  # [K]
    halves: Tensor | None  # [K, 5]


def _explained(
    detector: Detector,
    picture: AuditSample,
    reference: Detections,
    indices: Sequence[int],
    arm: Arm,
    samples: int,
    match_iou: float | None,
) -> _Saliency:
    """Explain some detections; an index of -1 has maps of NaN."""
    present = [row for row, index in enumerate(indices) if index >= 0]
    generator = image_generator(0, picture.image_id)
    half = max(1, round(samples * arm.share / 2))
    explainer = SmoothGrad(n_samples=half) if arm.share else Gradient()
    runs = [
        explainer.explain(
            detector, picture.image, reference, [indices[row] for row in present], generator=generator,
            match_iou=match_iou,
        )
        for _ in range(2 if arm.share else 1)
    ]  # fmt: skip
    shape = (len(runs), len(indices), 5, *picture.image.shape[1:])
    maps, matched = torch.full(shape, torch.nan), torch.zeros(shape[:2])
    for number, run in enumerate(runs):
        for row, saliency in zip(present, run, strict=True):
            maps[number, row], matched[number, row] = saliency.maps.cpu(), saliency.matched_samples
    halves = 1 - correlation_distance(maps[0], maps[1]) if arm.share else None
    weights = matched[:, :, None, None, None] * defined_maps(maps)[..., None, None]
    mean = (maps.nan_to_num() * weights).sum(dim=0) / weights.sum(dim=0)  # 0 / 0: undefined in both halves
    if arm.picture == "mirrored":
        mean = mean.flip(-1)[:, _MIRRORED]
    return _Saliency(mean, matched.sum(dim=0), halves)


def _arrays(saliency: _Saliency, arm: Arm) -> dict[str, Any]:
    peaks = saliency.maps.amax(dim=(2, 3))
    arrays = {
        f"maps/{arm.name}": (saliency.maps / peaks[..., None, None]).half().numpy(),
        f"peaks/{arm.name}": peaks.numpy(),
        f"matched/{arm.name}": saliency.matched.numpy(),
    }
    return arrays if saliency.halves is None else arrays | {f"halves/{arm.name}": saliency.halves.numpy()}


def _listed(candidates: Candidates) -> Detections:
    """Return candidates as detections, which nothing is matched with."""
    return Detections(candidates.regions, torch.ones(len(candidates)), candidates.labels)


def _mirrored_boxes(sample: AuditSample) -> Tensor:
    x_min, y_min, x_max, y_max = sample.boxes.unbind(1)
    width = sample.image.shape[-1]
    return torch.stack([width - x_max, y_min, width - x_min, y_max], dim=1)
