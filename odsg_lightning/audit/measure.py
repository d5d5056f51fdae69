"""One audited object: what was detected of it, what its maps measure, and what is kept of them in a record."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.explainer import explainer_fingerprint
from odsg_lightning.audit.pairing import PairingCounts
from odsg_lightning.metrics.edges import object_enrichment, position
from odsg_lightning.metrics.iof import object_iof
from odsg_lightning.metrics.map_statistics import map_statistics
from odsg_lightning.metrics.occlusion import occlusion_values
from odsg_lightning.names import EDGE_NAMES, IOF_NAMES, MAP_NAMES, OCCLUSION_NAMES, OF_DETECTOR
from odsg_lightning.occlusion.evidence import DetectedAgain, OcclusionEvidence
from odsg_lightning.records.maps_file import MAX_SIDE, Key, ObjectMaps
from odsg_lightning.records.record import ObjectRow
from odsg_lightning.saliency.masks import above_share, smoothed
from odsg_lightning.saliency.protocol import ConfiguredDetector, Detector
from odsg_lightning.types import AuditSample, ObjectSaliency
from odsg_lightning.viz.packing import as_webp

OBJECTS_CHOSEN = "balanced over the classes"
"""How ``max_objects_per_image`` chooses, as a fingerprint says it; the first versions took the first of each image."""

_DIGITS = 6


@dataclass(frozen=True, eq=False)
class ExplainedObject:
    """What was explained of a ground-truth object, and its maps, measured.

    Attributes:
        box: ``[4]`` XYXY in pixels: of the detection that was paired with it, or of what stands for one.
        score: class score of that, 0 to 1.
        iou: IoU of that with the ground-truth box.
        saliency: the five maps.
        foreground: ``[5, H, W]`` bool, the binarised maps; empty where a map is undefined.
        iof: ``[22]`` float32 in the order of :data:`odsg_lightning.names.IOF_NAMES`, NaN where a map is undefined.
        box_maps: ``[3]`` float32 in the order of :data:`odsg_lightning.names.MAP_NAMES`, NaN without a defined box map.
        edges: ``[16]`` float32 in the order of :data:`odsg_lightning.names.EDGE_NAMES`, NaN where it has no value.
        evidence: what is detected with pixels hidden; None if none were.
        occlusion: ``[2]`` float32 in the order of :data:`odsg_lightning.names.OCCLUSION_NAMES`, NaN where it cannot be
            judged.
        undetected: whether no detection was paired with it.
    """

    box: Tensor
    score: float
    iou: float
    saliency: ObjectSaliency
    foreground: Tensor
    iof: Tensor
    box_maps: Tensor
    edges: Tensor
    evidence: OcclusionEvidence | None
    occlusion: Tensor
    undetected: bool = False


@dataclass(frozen=True)
class TrimCheck:
    """How far an object's trimmed maps are from exact ones of the same noise samples.

    Attributes:
        correlation: lowest Pearson correlation of a trimmed map with the exact one; NaN if none is defined.
        iof: largest difference of one of the values of :data:`odsg_lightning.names.IOF_NAMES`, likewise.
    """

    correlation: float
    iof: float


@dataclass(frozen=True, eq=False)
class AuditedObject:
    """One ground-truth object after the audit.

    Attributes:
        sample: the image it belongs to.
        index: its position among the image's objects.
        explained: None if there is nothing to explain: no detection was paired with it.
        counts: what the image's detections have to do with its objects.
        trim_check: how far its maps are from exact ones; None where it was not asked:
            :mod:`odsg_lightning.audit.trim_check`.
    """

    sample: AuditSample
    index: int
    explained: ExplainedObject | None = None
    counts: PairingCounts | None = None
    trim_check: TrimCheck | None = None

    @property
    def missed(self) -> bool:
        """Whether no detection was paired with the object."""
        return self.explained is None or self.explained.undetected

    @property
    def annotation_id(self) -> int:
        """COCO annotation id."""
        return self.sample.annotation_ids[self.index]

    @property
    def key(self) -> Key:
        """Image id and annotation id."""
        return self.sample.image_id, self.annotation_id

    @property
    def category(self) -> str:
        """Name of its category, or what stands for it."""
        names = self.sample.category_names
        return names[self.index] if names else f"class {int(self.sample.labels[self.index])}"

    @property
    def mask(self) -> Tensor:
        """``[H, W]`` bool ground-truth segmentation."""
        return self.sample.masks[self.index]


def measured(
    box: Tensor,
    score: float,
    iou: float,
    saliency: ObjectSaliency,
    evidence: OcclusionEvidence | None,
    mask: Tensor,
    config: AuditConfig,
    *,
    undetected: bool = False,
) -> ExplainedObject:
    """Measure an object's maps against its segmentation ``[H, W]``, and what hiding pixels did. Nothing else does.

    ``box``, ``score``, ``iou``, ``saliency``, ``evidence`` and ``undetected`` are those of :class:`ExplainedObject`.
    """
    mask = mask.to(saliency.maps.device)
    smooth = smoothed(saliency.maps, config.blur_sigma)
    foreground, core = above_share(smooth, config.threshold), above_share(smooth, config.near_threshold)
    return ExplainedObject(
        box,
        score,
        iou,
        saliency,
        foreground,
        object_iof(foreground, core, mask, config.near_margin),
        map_statistics(saliency.maps, smooth, foreground, mask),
        torch.cat([object_enrichment(foreground, mask).flatten(), position(saliency.maps[None], mask[None])[0]]),
        evidence,
        _occlusion(evidence, score),
        undetected,
    )


def _occlusion(evidence: OcclusionEvidence | None, score: float) -> Tensor:
    if evidence is None:
        return torch.full((len(OCCLUSION_NAMES),), torch.nan)
    return occlusion_values([evidence], torch.tensor([score]))[0]


def object_row(item: AuditedObject) -> ObjectRow:
    """Return the object's row: its names, and its values rounded to 6 digits if it was explained."""
    row = ObjectRow(*item.key, item.sample.file_name, item.category)
    explained = item.explained
    if explained is None:
        return row
    x1, y1, x2, y2 = (round(coordinate, _DIGITS) for coordinate in explained.box.tolist())
    return replace(
        row,
        iou=round(explained.iou, _DIGITS),
        score=round(explained.score, _DIGITS),
        box=(x1, y1, x2, y2),
        matched_samples=explained.saliency.matched_samples,
        n_samples=explained.saliency.n_samples,
        stopped=explained.saliency.stopped,
        trimmed=_trimmed(explained.saliency.dropped, item.trim_check),
        undetected=explained.undetected,
        iof=_by_name(IOF_NAMES, explained.iof),
        box_maps=_by_name(MAP_NAMES, explained.box_maps),
        edges=_by_name(EDGE_NAMES, explained.edges),
        occlusion={} if explained.evidence is None else _by_name(OCCLUSION_NAMES, explained.occlusion),
        detected_again={} if explained.evidence is None else dict(_detected_again(explained.evidence)),
    )


def _trimmed(dropped: float, check: TrimCheck | None) -> dict[str, float | None]:
    if check is None:
        return {"dropped": round(dropped, _DIGITS)} if dropped else {}
    checked = {"correlation": check.correlation, "iof": check.iof}
    return {"dropped": round(dropped, _DIGITS)} | _by_name(tuple(checked), torch.tensor(list(checked.values())))


def _by_name(names: Sequence[str], values: Tensor) -> dict[str, float | None]:
    pairs = zip(names, values.tolist(), strict=True)
    return {name: None if math.isnan(value) else round(value, _DIGITS) for name, value in pairs}


def _detected_again(evidence: OcclusionEvidence) -> Iterator[tuple[str, dict[str, Any] | None]]:
    for name, of_replacement in ((name, getattr(evidence, name)) for name in OCCLUSION_NAMES):
        for replacement, again in of_replacement.items():
            yield f"{name}/{replacement}", None if again is None else _again_as_json(again)


def _again_as_json(again: DetectedAgain) -> dict[str, Any]:
    shift = None if again.shift is None else [round(part, _DIGITS) for part in again.shift]
    return {"score": round(again.score, _DIGITS), "iou": round(again.iou, _DIGITS), "shift": shift}


def object_maps(item: AuditedObject, strip: NDArray[np.uint8] | None = None) -> ObjectMaps | None:
    """Return the object's maps as they are stored, averaged over blocks to at most ``MAX_SIDE`` pixels a side.

    The foreground is that of the full map: a block belongs to it if half of its pixels do, and the fullest blocks do in
    any case, so that the foreground of a defined map is never empty.

    Args:
        item: the object.
        strip: ``[H, W, 3]`` RGB, the picture of the object.

    Returns:
        None if nothing of it was explained.
    """
    if item.explained is None:
        return None
    reduced = _block_means(item.explained.saliency.maps.float())
    filled = _block_means(item.explained.foreground.float())
    fullest = filled.amax(dim=(1, 2), keepdim=True)
    foreground = (filled >= fullest.clamp(max=0.5)) & (fullest > 0)
    # A map that is zero everywhere is as undefined as one that is not finite: 0 / 0 is NaN.
    shares = torch.where(fullest > 0, reduced / reduced.amax(dim=(1, 2), keepdim=True), torch.nan)
    return ObjectMaps(
        shares.to(torch.float16).cpu().numpy(), foreground.cpu().numpy(), b"" if strip is None else as_webp(strip)
    )


def fingerprint(audit_set_sha256: str, config: AuditConfig, masks: str | None = None) -> dict[str, Any]:
    """Return everything that the numbers of an audit depend on besides the detector.

    Args:
        audit_set_sha256: hash of the audited images and annotations.
        config: the settings.
        masks: what an object is, ``"segmentation"`` or ``"box"``; None if that is not known.
    """
    told: dict[str, Any] = {"audit_set": audit_set_sha256}
    if masks is not None:
        told["masks"] = masks
    if config.max_objects_per_image is not None:
        told["objects_chosen"] = OBJECTS_CHOSEN
    return told | config.measured | explainer_fingerprint(config)


def detector_fingerprint(detector: Detector) -> dict[str, Any]:
    """Return what a detector says of how it is explained, as ``detector/<name>``; nothing of the defaults."""
    if not isinstance(detector, ConfiguredDetector):
        return {}
    return {f"{OF_DETECTOR}{name}": value for name, value in sorted(detector.explained_with.items())}


def _block_means(maps: Tensor) -> Tensor:
    """Average ``[5, H, W]`` over the smallest square blocks that fit; blocks at the border may be cut."""
    block = math.ceil(max(maps.shape[1:]) / MAX_SIDE)
    return functional.avg_pool2d(maps, block, ceil_mode=True)
