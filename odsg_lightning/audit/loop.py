"""One audit: which objects of a fixed set are detected, what each of their five numbers looks at, what they need."""

from collections.abc import Callable, Iterable, Iterator
from itertools import repeat

import torch
from torch import Tensor

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.measure import AuditedObject, measured
from odsg_lightning.errors import BrokenInputError, OdsgError
from odsg_lightning.occlusion.evidence import OcclusionEvidence, occlusion_evidence
from odsg_lightning.saliency.matching import match_one_to_one
from odsg_lightning.saliency.noise import image_generator
from odsg_lightning.saliency.protocol import Detector
from odsg_lightning.saliency.smoothgrad import smoothgrad
from odsg_lightning.types import AuditSample, Detections


class DetectorFailedError(BrokenInputError):
    """The detector cannot detect; the message says what it raised, or returned."""


def audited_indices(sample: AuditSample, max_objects: int | None) -> list[int]:
    """Return the positions of the objects to audit: the first ``max_objects`` by annotation id."""
    order = sorted(range(len(sample.annotation_ids)), key=sample.annotation_ids.__getitem__)
    return order[:max_objects]


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


def audit(
    detector: Detector,
    samples: Iterable[AuditSample],
    config: AuditConfig,
    *,
    device: torch.device | str = "cpu",
    on_sample: Callable[[], None] = lambda: None,
) -> Iterator[AuditedObject]:
    """Audit a detector on a fixed set, object by object.

    The detector must be in eval mode, and whoever trains it must wrap the whole iteration in
    :func:`odsg_lightning.audit.isolation.isolated`.

    Args:
        detector: see :class:`odsg_lightning.saliency.protocol.Detector`.
        samples: the audit set.
        config: see :class:`AuditConfig`.
        device: where the images are put.
        on_sample: called ``config.samples_per_image`` times for every image, however few of them are needed.

    Yields:
        Every audited ground-truth object, measured, missed ones included, image by image in the order of ``samples``.

    Raises:
        DetectorFailedError: the detector does not run on an image.
    """
    for sample in samples:
        image = sample.image.to(device, copy=True)
        reference = _detected(detector, image, sample.image_id)
        pairs, ious = pair_detections(sample, reference, config)
        objects = audited_indices(sample, config.max_objects_per_image)
        paired = [index for index in objects if pairs[index] >= 0]
        saliencies = smoothgrad(
            detector,
            image,
            reference,
            [int(pairs[index]) for index in paired],
            generator=image_generator(config.seed, sample.image_id),
            n_samples=config.samples_per_image,
            sigma=config.noise,
            match_iou=config.match_iou,
            tolerance=config.tolerance,
            engine=config.engine,
            precision=config.precision,
            on_sample=on_sample,
        )
        for _ in range(0 if paired else config.samples_per_image):
            on_sample()  # progress counts the samples that an image without detections saves, too
        evidence = _evidence(detector, image, reference[pairs[paired]], sample.masks[paired], config)
        explained = dict(zip(paired, saliencies, strict=True))
        del saliencies  # each object's maps go when it has been measured
        for index in objects:
            if index not in explained:
                yield AuditedObject(sample, index)
                continue
            match, saliency, hidden = int(pairs[index]), explained.pop(index), next(evidence)
            box, score, iou = reference.boxes[match], float(reference.scores[match]), float(ious[index])
            detected = measured(box, score, iou, saliency, hidden, sample.masks[index], config)
            yield AuditedObject(sample, index, detected)


def _detected(detector: Detector, image: Tensor, image_id: int) -> Detections:
    """Run the detector once; whatever it raises is its own fault: its configuration or code."""
    try:
        with torch.no_grad():
            (reference,) = detector.detect([image])
    except (OdsgError, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        what = " ".join(str(error).split())[:500]
        raise DetectorFailedError(
            f"its forward pass of image id {image_id} raised {type(error).__name__}: {what}"
        ) from error
    if not isinstance(reference, Detections):
        raise DetectorFailedError(
            f"its detect() returned a {type(reference).__name__} for image id {image_id}, not an "
            "odsg_lightning.types.Detections."
        )
    return reference


def _evidence(
    detector: Detector, image: Tensor, detections: Detections, masks: Tensor, config: AuditConfig
) -> Iterator[OcclusionEvidence | None]:
    if not config.occlusion:
        return repeat(None)
    margins = {name: getattr(config, name) for name in ("sufficiency_margin", "necessity_margin")}
    return occlusion_evidence(detector, image, detections, masks.to(image.device), **margins)
