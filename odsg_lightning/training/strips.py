"""The picture of one audited object, and which objects get one."""

from collections.abc import Sequence

import numpy as np

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.loop import AuditedObject, audited_indices
from odsg_lightning.metrics.iof import intersection_over_foreground
from odsg_lightning.names import BOX_PARAMETERS, IOF_NAMES
from odsg_lightning.saliency.masks import binarise
from odsg_lightning.types import AuditSample
from odsg_lightning.viz.strip import object_strip


def audited_strip(found: AuditedObject, config: AuditConfig) -> np.ndarray:
    """Draw the photograph with both boxes, then the five maps with their foreground and their IOF.

    Returns:
        ``[H, W, 3]`` uint8 RGB.
    """
    sample = found.sample
    name = sample.category_names[found.index] if sample.category_names else f"class {int(sample.labels[found.index])}"
    place = f"{name}, image {sample.image_id}, annotation {found.annotation_id}"
    truth = sample.boxes[found.index]
    if found.saliency is None or found.box is None:
        title = f"{place}: missed (no detection above {config.score_threshold:g})"
        return object_strip(
            sample.image, None, None, ground_truth_box=truth, detected_box=None, mask=found.mask, title=title
        )
    maps = found.saliency.maps.cpu()
    values = intersection_over_foreground(
        maps[None], found.mask[None], blur_sigma=config.blur_sigma, threshold=config.threshold
    )[0]
    iof = dict(zip(IOF_NAMES, values.tolist(), strict=True))
    captions = [f"edge {iof[f'{p}/edge']:.2f}  object {iof[f'{p}/object']:.2f}" for p in BOX_PARAMETERS]
    captions.append(f"object {iof['score/object']:.2f}")
    passes = f"{found.saliency.matched_passes}/{found.saliency.n_samples} passes"
    return object_strip(
        sample.image,
        maps,
        binarise(maps, config.blur_sigma, config.threshold),
        ground_truth_box=truth,
        detected_box=found.box.cpu(),
        mask=found.mask,
        title=f"{place}: score {found.score:.3f}, IoU {found.iou:.2f}, {passes}",
        captions=captions,
    )


def drawn_objects(samples: Sequence[AuditSample], config: AuditConfig, count: int) -> set[tuple[int, int]]:
    """Choose the objects that get a picture: the first of each image, then the second of each, and so on.

    It depends on the audit set alone, so the same objects appear at every step.
    """
    audited = [(sample, audited_indices(sample, config.max_objects_per_image)) for sample in samples]
    order = [
        (position, rank, sample.image_id, sample.annotation_ids[index])
        for rank, (sample, indices) in enumerate(audited)
        for position, index in enumerate(indices)
    ]
    return {(image_id, annotation_id) for _, _, image_id, annotation_id in sorted(order)[:count]}


def strip_tag(found: AuditedObject) -> str:
    """Return the name of the object's picture, the same at every step."""
    return f"saliency/image_{found.sample.image_id}/annotation_{found.annotation_id}"
