"""Deletion and insertion: what is still detected of an object as pixels go, or come, in the order of a map.

Petsiuk et al., *RISE* (2018); for detectors, *D-RISE* (2021).
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torchvision.ops import box_iou

from odsg_lightning.errors import UserInputError
from odsg_lightning.occlusion.replacements import replaced
from odsg_lightning.saliency.masks import defined_maps
from odsg_lightning.saliency.protocol import BatchDetector, Detector
from odsg_lightning.types import Detections

Fill = Literal["blur", "grey", "black"]
"""What stands in the place of pixels that are gone: the blurred image, the middle of the range, or 0."""

CURVES = ("score_iou", "score", "iou")
"""What is detected of an object: score times IoU; score of what has an IoU above 0.5; IoU. The best of its class."""

_SAME_IOU = 0.5
_AT_ONCE = 8  # images in one call of the detector


def deletion_curves(
    detector: Detector,
    image: Tensor,
    reference: Detections,
    maps: Tensor,
    *,
    steps: int = 50,
    fill: Fill = "blur",
    sigma: float = 10.0,
) -> Tensor:
    """Take an image's pixels away, those with the highest value of a map first, and see what is still detected.

    Args:
        detector: in eval mode.
        image: ``[3, H, W]`` RGB, float, 0 to 255.
        reference: ``[K]`` the explained detections, or annotated objects: their boxes and classes count.
        maps: ``[K, H, W]`` one map of each, NaN where undefined. Of equal values, the first goes first, row by row.
        steps: of equally many pixels, until none is left; at least 1.
        fill: what stands in their place.
        sigma: standard deviation of the blur in pixels.

    Returns:
        ``[K, 3, steps + 1]`` in the order of :data:`CURVES`, 0 to 1: the whole image first, the filled one last.
        Nothing of the class detected is 0. NaN throughout where the map is undefined; the detector is not run then.

    Raises:
        ValueError: shapes that do not fit, or a detector that does not answer each image.
        UserInputError: ``steps`` or ``fill`` is none that there is.

    Example:
        >>> class Corner:  # sees the first pixel, the brighter the surer
        ...     def detect(self, images):
        ...         box, label = torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([0])
        ...         return [Detections(box, image[0, 0, :1] / 255, label) for image in images]
        >>> image, corner = torch.full((3, 2, 2), 255.0), Corner()
        >>> maps = torch.tensor([[[0.5, 0.9], [0.1, 0.2]]])  # the first pixel goes second
        >>> deletion_curves(corner, image, corner.detect([image])[0], maps, steps=4, fill="black")[0, 1]
        tensor([1., 1., 0., 0., 0.])
    """
    return _curves(detector, image, reference, maps, steps, fill, sigma, begins_empty=False)


def insertion_curves(
    detector: Detector,
    image: Tensor,
    reference: Detections,
    maps: Tensor,
    *,
    steps: int = 50,
    fill: Fill = "blur",
    sigma: float = 10.0,
) -> Tensor:
    """Put an image's pixels into the filled one, those with the highest value of a map first.

    See :func:`deletion_curves` for arguments and errors.

    Returns:
        ``[K, 3, steps + 1]``, see there: the filled image first, the whole one last.
    """
    return _curves(detector, image, reference, maps, steps, fill, sigma, begins_empty=True)


def _curves(
    detector: Detector,
    image: Tensor,
    reference: Detections,
    maps: Tensor,
    steps: int,
    fill: Fill,
    sigma: float,
    *,
    begins_empty: bool,
) -> Tensor:
    if maps.shape != (len(reference), *image.shape[1:]) or not maps.is_floating_point():
        raise ValueError(
            f"Expected argument `maps` to be a float tensor {(len(reference), *image.shape[1:])}, one map for each "
            f"object, but got {maps.dtype} {tuple(maps.shape)}."
        )
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise UserInputError(f"Expected argument `steps` to be an integer of at least 1, but got {steps!r}.")
    filled = _filled(image, fill, sigma)
    curves = image.new_full((len(reference), len(CURVES), steps + 1), torch.nan)
    for index in defined_maps(maps).nonzero().flatten().tolist():
        order = maps[index].flatten().argsort(descending=True, stable=True).to(image.device)
        one = reference[index].detach()
        for start in range(0, steps + 1, _AT_ONCE):
            some = range(start, min(start + _AT_ONCE, steps + 1))
            pictures = []
            for step in some:
                first = torch.zeros_like(image[0], dtype=torch.bool)
                first.view(-1)[order[: step * len(order) // steps]] = True
                pictures.append(torch.where(first == begins_empty, image, filled))
            for step, found in zip(some, _answers(detector, pictures), strict=True):
                curves[index, :, step] = _best(one, found)
    return curves


def _filled(image: Tensor, fill: Fill, sigma: float) -> Tensor:
    if fill not in get_args(Fill):
        raise UserInputError(f"Expected argument `fill` to be one of {get_args(Fill)}, but got {fill!r}.")
    if fill == "black":
        return torch.zeros_like(image)
    return replaced(image, torch.ones_like(image[0], dtype=torch.bool), fill, sigma=sigma)


def _answers(detector: Detector, pictures: Sequence[Tensor]) -> list[Detections]:
    with torch.no_grad():
        at_once = detector.detect_batch if isinstance(detector, BatchDetector) else detector.detect
        answers = at_once(pictures)
    if len(answers) != len(pictures):
        raise ValueError(
            f"Expected the detector's `detect` to return one result for each of {len(pictures)} images, but got "
            f"{len(answers)}."
        )
    return answers


def _best(one: Detections, found: Detections) -> Tensor:
    """``[3]`` what is detected of an object, in the order of :data:`CURVES`."""
    same = found[found.labels == one.labels]
    if not len(same):
        return one.scores.new_zeros(len(CURVES))
    iou = box_iou(one.boxes, same.boxes)[0]
    return torch.stack([same.scores * iou, same.scores * (iou > _SAME_IOU), iou]).amax(dim=1)
