"""The picture of one audited object, and which objects get one."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from odsg_lightning.audit.choice import audited_indices
from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.measure import AuditedObject, ExplainedObject
from odsg_lightning.names import BOX_PARAMETERS, IOF_NAMES
from odsg_lightning.occlusion.evidence import DetectedAgain
from odsg_lightning.records.maps_file import Key
from odsg_lightning.types import AuditSample
from odsg_lightning.viz.strip import HiddenPixels, object_strip


def audited_strip(item: AuditedObject, config: AuditConfig, *, stacked: bool = False) -> np.ndarray:
    """Draw the photograph with both boxes, the five maps with their foreground and IOF, and what hiding pixels does.

    Args:
        item: the object.
        config: of the audit.
        stacked: two panels a row instead of all in one.

    Returns:
        ``[H, W, 3]`` uint8 RGB.
    """
    sample, explained = item.sample, item.explained
    place = f"{item.category}, image {sample.image_id}, annotation {item.annotation_id}"
    truth = sample.boxes[item.index]
    if explained is None:
        title = f"{place}: missed (no detection above {config.score_threshold:g})"
        return object_strip(
            sample.image,
            None,
            None,
            ground_truth_box=truth,
            detected_box=None,
            mask=item.mask,
            title=title,
            stacked=stacked,
        )
    iof = dict(zip(IOF_NAMES, explained.iof.tolist(), strict=True))
    captions = [f"edge {iof[f'{p}/edge']:.2f}  object {iof[f'{p}/object']:.2f}" for p in BOX_PARAMETERS]
    captions.append(f"object {iof['score/object']:.2f}")
    matched = f"{explained.saliency.matched_samples}/{explained.saliency.n_samples} noise samples"
    missed = "missed, its anchor or region: " if explained.undetected else ""
    return object_strip(
        sample.image,
        explained.saliency.maps,
        explained.foreground,
        ground_truth_box=truth,
        detected_box=explained.box,
        mask=item.mask,
        title=f"{place}: {missed}score {explained.score:.3f}, IoU {explained.iou:.2f}, {matched}",
        captions=captions,
        hidden=_hidden(explained),
        stacked=stacked,
    )


def _hidden(explained: ExplainedObject) -> list[HiddenPixels]:
    """Return what the two panels show: what was detected on the object alone, and without the object."""
    evidence = explained.evidence
    if evidence is None:
        return [HiddenPixels("not detected" if explained.undetected else "switched off")] * 2
    alone, without = evidence.that_count
    told = evidence.sufficiency[alone], evidence.necessity[without]
    return [
        HiddenPixels()
        if again is None or picture is None
        else HiddenPixels(_says(again), picture, _box_again(explained.box, again))
        for again, picture in zip(told, evidence.pictures, strict=True)
    ]


def _says(again: DetectedAgain) -> str:
    return "not detected" if again.shift is None else f"score {again.score:.2f}"


def _box_again(box: Tensor, again: DetectedAgain) -> Tensor | None:
    if again.shift is None:
        return None
    width_height = (box[2:] - box[:2]).repeat(2)
    return box + width_height * box.new_tensor(again.shift)


def drawn_objects(samples: Sequence[AuditSample], objects: frozenset[Key], count: int) -> set[Key]:
    """Choose the objects that get a picture: the first of each image, then the second of each, and so on.

    It depends on the audit set alone, so the same objects appear at every step.

    Args:
        samples: their images.
        objects: those that are audited.
        count: number of pictures, at most.
    """
    audited = [(sample, audited_indices(sample, objects)) for sample in samples]
    order = [
        (position, rank, sample.image_id, sample.annotation_ids[index])
        for rank, (sample, indices) in enumerate(audited)
        for position, index in enumerate(indices)
    ]
    return {(image_id, annotation_id) for _, _, image_id, annotation_id in sorted(order)[:count]}


def strip_tag(item: AuditedObject) -> str:
    """Return the name of the object's picture, the same at every step."""
    return f"saliency/image_{item.sample.image_id}/annotation_{item.annotation_id}"
