"""From an audited object, with its tensors, to what is kept of it: its row in the record, and its maps."""

import io
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.loop import AuditedObject
from odsg_lightning.audit.maps_file import MAX_SIDE, ObjectMaps
from odsg_lightning.audit.record import ObjectRow
from odsg_lightning.metrics.iof import intersection_over_foreground
from odsg_lightning.names import IOF_NAMES
from odsg_lightning.saliency.masks import binarise

_DIGITS = 6


def object_row(found: AuditedObject, config: AuditConfig) -> ObjectRow:
    """Return the object's row: its names, and its values rounded to 6 digits if it was detected."""
    sample, index = found.sample, found.index
    name = sample.category_names[index] if sample.category_names else f"class {int(sample.labels[index])}"
    row = ObjectRow(sample.image_id, found.annotation_id, sample.file_name, name)
    if found.saliency is None or found.box is None or found.score is None or found.iou is None:
        return row
    maps = found.saliency.maps
    values = intersection_over_foreground(
        maps[None], found.mask[None].to(maps.device), blur_sigma=config.blur_sigma, threshold=config.threshold
    )[0]
    x1, y1, x2, y2 = (round(coordinate, _DIGITS) for coordinate in found.box.tolist())
    return ObjectRow(
        row.image_id,
        row.annotation_id,
        row.file_name,
        row.category,
        iou=round(found.iou, _DIGITS),
        score=round(found.score, _DIGITS),
        box=(x1, y1, x2, y2),
        matched_passes=found.saliency.matched_passes,
        n_samples=found.saliency.n_samples,
        iof={
            key: None if math.isnan(value) else round(value, _DIGITS)
            for key, value in zip(IOF_NAMES, values.tolist(), strict=True)
        },
    )


def object_maps(found: AuditedObject, config: AuditConfig, strip: NDArray[np.uint8] | None = None) -> ObjectMaps | None:
    """Return the object's maps as they are stored, averaged over blocks to at most ``MAX_SIDE`` pixels a side.

    The foreground is that of the full map: a block belongs to it if half of its pixels do, and the fullest blocks do in
    any case, so that the foreground of a defined map is never empty.

    Args:
        found: the object.
        config: how maps are binarised.
        strip: ``[H, W, 3]`` RGB, the picture of the object.

    Returns:
        None if the object was missed.
    """
    if found.saliency is None:
        return None
    maps = found.saliency.maps.float()
    reduced, filled = _block_means(maps), _block_means(binarise(maps, config.blur_sigma, config.threshold).float())
    fullest = filled.amax(dim=(1, 2), keepdim=True)
    foreground = (filled >= fullest.clamp(max=0.5)) & (fullest > 0)
    # A map that is zero everywhere is as undefined as one that is not finite: 0 / 0 is NaN.
    shares = torch.where(fullest > 0, reduced / reduced.amax(dim=(1, 2), keepdim=True), torch.nan)
    return ObjectMaps(
        shares.to(torch.float16).cpu().numpy(), foreground.cpu().numpy(), b"" if strip is None else _webp(strip)
    )


def fingerprint(audit_set_sha256: str, config: AuditConfig) -> dict[str, Any]:
    """Return everything that the numbers of an audit depend on besides the detector."""
    return {"audit_set": audit_set_sha256, **config.measured}


def _block_means(maps: Tensor) -> Tensor:
    """Average ``[5, H, W]`` over the smallest square blocks that fit; blocks at the border may be cut."""
    block = math.ceil(max(maps.shape[1:]) / MAX_SIDE)
    return functional.avg_pool2d(maps, block, ceil_mode=True)


def _webp(picture: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "WEBP", quality=80)
    return stream.getvalue()
