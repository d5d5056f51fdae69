"""One audit: which objects of a fixed set are detected, what each of their five numbers looks at, what they need."""

from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

from odsg_lightning.audit.choice import audited_indices, chosen_objects, listed_objects
from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.explainer import explainer_of
from odsg_lightning.audit.measure import AuditedObject, measured
from odsg_lightning.audit.pairing import pair_detections, pairing_counts
from odsg_lightning.audit.trim_check import trim_checks, warn_of_dropped
from odsg_lightning.errors import BrokenInputError, OdsgError
from odsg_lightning.occlusion.evidence import OcclusionEvidence, occlusion_evidence
from odsg_lightning.records.maps_file import Key
from odsg_lightning.saliency.noise import image_generator
from odsg_lightning.saliency.protocol import Detector
from odsg_lightning.saliency.targets import as_detections, candidate_detector
from odsg_lightning.types import AuditSample, Candidates, Detections


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
        on_sample: called as often for every image as the explainer has samples, however few of them are needed.
        objects: which objects are audited, by image id and annotation id; None for those that
            ``config.max_objects_per_image`` leaves of ``samples``. Of a part of the audit set, pass what it leaves of
            the whole: :func:`odsg_lightning.audit.choice.chosen_objects`.

    Yields:
        Every audited ground-truth object, measured, missed ones included, image by image in the order of ``samples``.

    Raises:
        DetectorFailedError: the detector does not run on an image.
        UserInputError: ``config.target`` asks for what the detector cannot tell.
    """
    if objects is None:
        objects = chosen_objects(listed_objects(samples), config.max_objects_per_image)
    explainer = explainer_of(config)
    for sample in samples:
        image = sample.image.to(device, copy=True)
        reference, candidates = detected(detector, image, sample.image_id, config)
        pairs, ious = pair_detections(sample, reference, config)
        counts = pairing_counts(sample, reference, config)
        indices = audited_indices(sample, objects)
        paired = [index for index in indices if pairs[index] >= 0]
        subject = _subject(detector, image, sample, reference, candidates, pairs, paired, indices, config)
        if subject.objects:
            maps = explainer.explain(
                subject.detector,
                image,
                subject.numbers,
                subject.rows,
                generator=image_generator(config.seed, sample.image_id),
                match_iou=config.match_iou if config.target == "output" else None,
                on_sample=on_sample,
            )
        else:
            maps = []
            for _ in range(explainer.samples):
                on_sample()  # progress counts the samples that an image without detections saves, too
        warn_of_dropped(maps, config)
        rows = dict(zip(subject.objects, subject.rows, strict=True))
        checks = trim_checks(subject.detector, image, sample, subject.numbers, rows, objects, config)
        evidence = _evidence(detector, image, reference[pairs[paired]], sample.masks[paired], config)
        explained = dict(zip(subject.objects, zip(subject.rows, maps, strict=True), strict=True))
        del maps  # each object's maps go when it has been measured
        for index in indices:
            if index not in explained:
                yield AuditedObject(sample, index, counts=counts)
                continue
            row, saliency = explained.pop(index)
            undetected = bool(pairs[index] < 0)
            if undetected:
                told, match, hidden = subject.numbers, row, None
                iou = float(box_iou(sample.boxes[index, None].to(image), told.boxes[row, None]))
            else:
                told, match, hidden, iou = reference, int(pairs[index]), next(evidence), float(ious[index])
            box, score, mask = told.boxes[match], float(told.scores[match]), sample.masks[index]
            found = measured(box, score, iou, saliency, hidden, mask, config, undetected=undetected)
            yield AuditedObject(sample, index, found, counts, checks.get(index))


class _Subject(NamedTuple):
    """What is explained of an image: of each of some objects, one row of what a detector says."""

    detector: Detector
    numbers: Detections
    objects: list[int]
    rows: list[int]


def _subject(
    detector: Detector,
    image: Tensor,
    sample: AuditSample,
    reference: Detections,
    candidates: Candidates | None,
    pairs: Tensor,
    paired: list[int],
    indices: list[int],
    config: AuditConfig,
) -> _Subject:
    if config.target == "output":
        return _Subject(detector, reference, paired, [int(pairs[index]) for index in paired])
    adapter = candidate_detector(detector)
    if candidates is not None:
        objects, asked = paired, candidates[pairs[paired]]
    else:
        objects = indices
        boxes, labels = sample.boxes[indices].to(image), sample.labels[indices]
        asked = adapter.candidates_for_objects(image, boxes, labels)
    outputs = adapter.outputs_of(asked)
    numbers = as_detections(outputs, image) if objects else reference[[]]
    return _Subject(outputs, numbers, objects, list(range(len(objects))))


def detected(
    detector: Detector, image: Tensor, image_id: int, config: AuditConfig
) -> tuple[Detections, Candidates | None]:
    """Run the detector once; whatever it raises is its own fault: its configuration or code.

    Returns:
        What it detects, and, where ``config.target`` asks for it, which candidate each detection came from.
    """
    candidates = None
    try:
        if config.target == "logit":
            reference, candidates = candidate_detector(detector).candidates_of_detections(image)
        else:
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
    return reference, candidates


def _evidence(
    detector: Detector, image: Tensor, detections: Detections, masks: Tensor, config: AuditConfig
) -> Iterator[OcclusionEvidence | None]:
    if not config.occlusion:
        return repeat(None)
    margins = {name: getattr(config, name) for name in ("sufficiency_margin", "necessity_margin")}
    return occlusion_evidence(detector, image, detections, masks.to(image.device), **margins)
