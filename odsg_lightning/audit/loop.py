"""One audit: which objects of a fixed set are detected, and what each of their five numbers looks at."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.detectors.protocol import Detector
from odsg_lightning.saliency.matching import match_one_to_one
from odsg_lightning.saliency.noise import image_generator
from odsg_lightning.saliency.smoothgrad import smoothgrad
from odsg_lightning.types import AuditSample, Detections, ObjectSaliency


@dataclass(frozen=True)
class AuditedObject:
    """One ground-truth object after the audit.

    Attributes:
        sample: the image it belongs to.
        index: its position among the image's objects.
        box: ``[4]`` XYXY of the paired detection in pixels; None if the object was missed.
        score: score of the paired detection; None if missed.
        iou: IoU of the paired detection with the ground-truth box; None if missed.
        saliency: its maps; None if missed.
    """

    sample: AuditSample
    index: int
    box: Tensor | None = None
    score: float | None = None
    iou: float | None = None
    saliency: ObjectSaliency | None = None

    @property
    def missed(self) -> bool:
        """Whether no detection was paired with the object."""
        return self.saliency is None

    @property
    def annotation_id(self) -> int:
        """COCO annotation id."""
        return self.sample.annotation_ids[self.index]

    @property
    def mask(self) -> Tensor:
        """``[H, W]`` bool ground-truth segmentation."""
        return self.sample.masks[self.index]


def audited_indices(sample: AuditSample, max_objects: int | None) -> list[int]:
    """Return the positions of the objects to audit: the first ``max_objects`` by annotation id."""
    order = sorted(range(len(sample.annotation_ids)), key=sample.annotation_ids.__getitem__)
    return order[:max_objects]


def pair_detections(sample: AuditSample, detections: Detections, config: AuditConfig) -> tuple[Tensor, Tensor]:
    """Pair each ground-truth object with at most one detection: same class, enough overlap, score above the threshold.

    Returns:
        ``[G]`` index into ``detections``, -1 where the object is missed, and ``[G]`` IoU, NaN where missed.
    """
    confident = (detections.scores.detach() > config.score_threshold).nonzero().flatten().cpu()
    boxes, labels = detections.boxes.detach().cpu()[confident], detections.labels.cpu()[confident]
    matches, ious = match_one_to_one(sample.boxes, sample.labels, boxes, labels, config.pair_iou)
    paired = matches >= 0
    matches[paired] = confident[matches[paired]]
    return matches, ious


def audit(
    detector: Detector,
    samples: Iterable[AuditSample],
    config: AuditConfig,
    *,
    device: torch.device | str = "cpu",
    on_pass: Callable[[], None] = lambda: None,
) -> Iterator[AuditedObject]:
    """Audit a detector on a fixed set, object by object.

    The detector must be in eval mode, and whoever trains it must wrap the whole iteration in
    :func:`odsg_lightning.audit.isolation.isolated`.

    Args:
        detector: see :class:`odsg_lightning.detectors.protocol.Detector`.
        samples: the audit set.
        config: see :class:`AuditConfig`.
        device: where the images are put.
        on_pass: called ``config.passes`` times for every image, however few of them are needed.

    Yields:
        Every audited ground-truth object, missed ones included, image by image in the order of ``samples``.
    """
    for sample in samples:
        image = sample.image.to(device, copy=True)
        with torch.no_grad():
            (reference,) = detector.detect([image])
        pairs, ious = pair_detections(sample, reference, config)
        objects = audited_indices(sample, config.max_objects_per_image)
        paired = [index for index in objects if pairs[index] >= 0]
        saliencies = smoothgrad(
            detector,
            image,
            reference,
            [int(pairs[index]) for index in paired],
            generator=image_generator(config.seed, sample.image_id),
            n_samples=config.passes,
            sigma=config.noise,
            match_iou=config.match_iou,
            tolerance=config.tolerance,
            engine=config.engine,
            precision=config.precision,
            on_pass=on_pass,
        )
        for _ in range(0 if paired else config.passes):
            on_pass()  # progress counts the passes that an image without detections saves, too
        explained = dict(zip(paired, saliencies, strict=True))
        for index in objects:
            if index in explained:
                match = int(pairs[index])
                box, score = reference.boxes[match], float(reference.scores[match])
                yield AuditedObject(sample, index, box, score, float(ious[index]), explained[index])
            else:
                yield AuditedObject(sample, index)
