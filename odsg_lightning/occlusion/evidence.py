"""Sufficiency and necessity of an object's pixels: what is still detected when others, or they, are hidden."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torchvision.ops import box_iou

from odsg_lightning.occlusion.replacements import Replacement, replaced
from odsg_lightning.saliency.masks import grown, grown_box, object_size
from odsg_lightning.saliency.memory import images_at_once
from odsg_lightning.saliency.protocol import BatchDetector, Detector
from odsg_lightning.types import Detections

SUFFICIENCY: tuple[Replacement, ...] = ("blur", "grey")
"""What stands in the place of the surroundings."""

NECESSITY: tuple[Replacement, ...] = ("inpaint",)
"""What stands in the place of the object."""

SAME_IOU = 0.5
"""Least IoU of a detection with the one in the whole image to be of the same object."""

LEAST_SHARE = 0.1
"""Of the image's pixels must be hidden for sufficiency, and left for necessity; otherwise nothing can be judged."""

_LEAST_MARGIN = 1.0  # in pixels: the outline itself
_OBJECTS_AT_ONCE = 4
_BLUR = 0.25  # standard deviation of the blur, as a share of the object's size


@dataclass(frozen=True)
class DetectedAgain:
    """What is still detected of an object.

    Attributes:
        score: of the best detection of the same class with an IoU of at least :data:`SAME_IOU`; 0 without one.
        iou: its IoU with the detection in the whole image; 0 without one.
        shift: by how much x_min, y_min, x_max, y_max moved, in widths and heights of the box; None without one.
    """

    score: float
    iou: float
    shift: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class OcclusionEvidence:
    """What hiding pixels does to one object.

    Attributes:
        sufficiency: what is detected with all but the object hidden, by replacement; None where too little is hidden.
        necessity: what is detected with the object hidden, by replacement; None where too little is left.
        pictures: ``[3, H, W]`` each, what the detector was shown for the replacement that counts, of sufficiency and of
            necessity; None where nothing was shown. They are for drawing, no part of what was measured.
    """

    sufficiency: dict[Replacement, DetectedAgain | None]
    necessity: dict[Replacement, DetectedAgain | None]
    pictures: tuple[Tensor | None, Tensor | None] = field(default=(None, None), compare=False, repr=False)

    @property
    def that_count(self) -> tuple[Replacement, Replacement]:
        """The replacement of sufficiency with the least score, and that of necessity with the highest."""
        alone = {name: again.score for name, again in self.sufficiency.items() if again is not None}
        without = {name: again.score for name, again in self.necessity.items() if again is not None}
        least = min(alone, key=alone.__getitem__, default=next(iter(self.sufficiency)))
        return least, max(without, key=without.__getitem__, default=next(iter(self.necessity)))


def occlusion_evidence(
    detector: Detector,
    image: Tensor,
    detections: Detections,
    masks: Tensor,
    *,
    sufficiency_margin: float,
    necessity_margin: float,
) -> Iterator[OcclusionEvidence]:
    """Hide everything but an object, then the object, and see what is still detected.

    For sufficiency the object's segmentation stays, grown by a margin, because a detector needs to see an outline from
    both sides. For necessity its box is hidden, grown by a margin, so that no silhouette is left. The detector sees one
    picture for each object and replacement, several small ones at once.

    Args:
        detector: in eval mode.
        image: ``[3, H, W]`` RGB, float, 0 to 255.
        detections: ``[K]`` those of the whole image that are to be judged.
        masks: ``[K, H, W]`` bool, the segmentation of each one's object.
        sufficiency_margin: in shares of the object's size, the square root of its extent's width times height; one
            pixel at least.
        necessity_margin: the same for the box.

    Yields:
        One record for each detection, in order.

    Raises:
        ValueError: the detector does not answer each image of several.
    """
    for start in range(0, len(detections), _OBJECTS_AT_ONCE):
        some = range(start, min(start + _OBJECTS_AT_ONCE, len(detections)))
        shown = [_pictures(image, masks[index], sufficiency_margin, necessity_margin) for index in some]
        pictures = [picture for of_object in shown for picture in of_object.values() if picture is not None]
        with torch.no_grad():
            answers = _detected(detector, pictures)
        if len(answers) != len(pictures):
            raise ValueError(
                f"Expected the detector's `detect` to return one result for each of {len(pictures)} images, but got "
                f"{len(answers)}."
            )
        found = iter(answers)
        for index, of_object in zip(some, shown, strict=True):
            one = detections[index].detach()
            again = {
                key: None if shown is None else detected_again(one, next(found)) for key, shown in of_object.items()
            }
            alone = {replacement: again["sufficiency", replacement] for replacement in SUFFICIENCY}
            without = {replacement: again["necessity", replacement] for replacement in NECESSITY}
            evidence = OcclusionEvidence(alone, without)
            first, second = evidence.that_count
            yield replace(evidence, pictures=(of_object["sufficiency", first], of_object["necessity", second]))


def _detected(detector: Detector, pictures: Sequence[Tensor]) -> list[Detections]:
    if not pictures:
        return []
    if not isinstance(detector, BatchDetector):
        return detector.detect(pictures)
    at_once = images_at_once(pictures[0], pictures[0].device)
    starts = range(0, len(pictures), at_once)
    return [found for start in starts for found in detector.detect_batch(pictures[start : start + at_once])]


def _pictures(
    image: Tensor, mask: Tensor, sufficiency_margin: float, necessity_margin: float
) -> dict[tuple[str, Replacement], Tensor | None]:
    """Return what the detector is shown of one object, None where too little is hidden or left."""
    size = object_size(mask)
    around = ~grown(mask, max(sufficiency_margin * size, _LEAST_MARGIN))
    box = grown_box(mask, max(necessity_margin * size, _LEAST_MARGIN))
    enough = float(around.float().mean()) >= LEAST_SHARE, float(box.float().mean()) <= 1 - LEAST_SHARE
    plan = [("sufficiency", around, enough[0], SUFFICIENCY), ("necessity", box, enough[1], NECESSITY)]
    return {
        (name, replacement): replaced(image, hole, replacement, sigma=_BLUR * size) if judged else None
        for name, hole, judged, replacements in plan
        for replacement in replacements
    }


def detected_again(one: Detections, found: Detections) -> DetectedAgain:
    """Return the best of the detections found that is of the same class and place.

    Args:
        one: the single detection to find again.
        found: ``[K]`` detections of the changed image.

    Example:
        >>> box, label = torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([1])
        >>> one, moved = Detections(box, torch.tensor([0.9]), label), Detections(box + 1.25, torch.tensor([0.5]), label)
        >>> again = detected_again(one, moved)
        >>> again.score, again.shift
        (0.5, (0.125, 0.125, 0.125, 0.125))
    """
    found = found.detach()
    iou = box_iou(one.boxes, found.boxes)[0] if len(found) else one.scores.new_zeros(0)
    same = (found.labels == one.labels) & (iou >= SAME_IOU)
    if not bool(same.any()):
        return DetectedAgain(0.0, 0.0, None)
    best = int(torch.where(same, found.scores, -1.0).argmax())
    width_height = (one.boxes[0, 2:] - one.boxes[0, :2]).repeat(2)
    x_min, y_min, x_max, y_max = ((found.boxes[best] - one.boxes[0]) / width_height).tolist()
    return DetectedAgain(float(found.scores[best]), float(iou[best]), (x_min, y_min, x_max, y_max))
