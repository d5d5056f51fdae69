"""One audit: which objects of a fixed set are detected, what each of their five numbers looks at, what they need."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import repeat

import torch
from torch import Tensor

from odsg_lightning.audit.choice import audited_indices, chosen_objects, listed_objects
from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.measure import AuditedObject, measured
from odsg_lightning.audit.pairing import pair_detections, pairing_counts
from odsg_lightning.errors import BrokenInputError, OdsgError
from odsg_lightning.occlusion.evidence import OcclusionEvidence, occlusion_evidence
from odsg_lightning.records.maps_file import Key
from odsg_lightning.saliency.gradients import gradient_looks
from odsg_lightning.saliency.noise import image_generator
from odsg_lightning.saliency.protocol import Detector
from odsg_lightning.saliency.smoothgrad import smoothgrad
from odsg_lightning.types import AuditSample, Detections


class DetectorFailedError(BrokenInputError):
    """The detector cannot detect; the message says what it raised, or returned."""


def audit(
    detector: Detector,
    samples: Sequence[AuditSample],
    config: AuditConfig,
    *,
    device: torch.device | str = "cpu",
    on_sample: Callable[[], None] = lambda: None,
    objects: frozenset[Key] | None = None,
) -> Iterator[AuditedObject]:
    """Audit a detector on a fixed set, object by object.

    The detector must be in eval mode, and whoever trains it must wrap the whole iteration in
    :func:`odsg_lightning.audit.isolation.isolated`.

    Args:
        detector: see :class:`odsg_lightning.saliency.protocol.Detector`.
        samples: the audit set, or a part of it.
        config: see :class:`AuditConfig`.
        device: where the images are put.
        on_sample: called ``config.samples_per_image`` times for every image, however few of them are needed.
        objects: which objects are audited, by image id and annotation id; None for those that
            ``config.max_objects_per_image`` leaves of ``samples``. Of a part of the audit set, pass what it leaves of
            the whole: :func:`odsg_lightning.audit.choice.chosen_objects`.

    Yields:
        Every audited ground-truth object, measured, missed ones included, image by image in the order of ``samples``.

    Raises:
        DetectorFailedError: the detector does not run on an image.
    """
    if objects is None:
        objects = chosen_objects(listed_objects(samples), config.max_objects_per_image)
    for sample in samples:
        image = sample.image.to(device, copy=True)
        reference = detect_once(detector, image, sample.image_id)
        pairs, ious = pair_detections(sample, reference, config)
        counts = pairing_counts(sample, reference, config)
        indices = audited_indices(sample, objects)
        paired = [index for index in indices if pairs[index] >= 0]
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
            look=partial(gradient_looks, engine=config.engine, precision=config.precision),
            on_sample=on_sample,
        )
        for _ in range(0 if paired else config.samples_per_image):
            on_sample()  # progress counts the samples that an image without detections saves, too
        evidence = _evidence(detector, image, reference[pairs[paired]], sample.masks[paired], config)
        explained = dict(zip(paired, saliencies, strict=True))
        del saliencies  # each object's maps go when it has been measured
        for index in indices:
            if index not in explained:
                yield AuditedObject(sample, index, counts=counts)
                continue
            match, saliency, hidden = int(pairs[index]), explained.pop(index), next(evidence)
            box, score, iou = reference.boxes[match], float(reference.scores[match]), float(ious[index])
            detected = measured(box, score, iou, saliency, hidden, sample.masks[index], config)
            yield AuditedObject(sample, index, detected, counts)


def detect_once(detector: Detector, image: Tensor, image_id: int) -> Detections:
    """Run the detector once; whatever it raises is its own fault: its configuration or code.

    Raises:
        DetectorFailedError: says what.
    """
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
