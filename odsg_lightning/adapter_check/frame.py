"""Whether boxes are XYXY, in pixels of the image that was given."""

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import box_convert, box_iou

from odsg_lightning.adapter_check.look import Look, best_of, distances
from odsg_lightning.adapter_check.result import Verdict
from odsg_lightning.adapter_check.subject import UnusableAnswerError

_SHIFT = (32, 64)
"""By how many pixels the image is moved right and down: unequal, to tell x from y; strides of most detectors."""

_SCALE = 1.5

_CONVERT = {
    "XYWH (corner, width, height)": "torchvision.ops.box_convert(boxes, 'xywh', 'xyxy')",
    "CXCYWH (centre, width, height)": "torchvision.ops.box_convert(boxes, 'cxcywh', 'xyxy')",
    "YXYX (rows before columns)": "boxes[:, [1, 0, 3, 2]]",
}
"""How boxes of each format become XYXY."""


def check_format(look: Look) -> Verdict:
    """Tell XYXY from other formats: by the boxes, by the annotations, and by how they move with the image."""
    best = look.best
    if len(best) == 0:
        return "undecided", "Nothing was detected whose box could be looked at."
    boxes, side = best.boxes, max(look.size)
    if float(boxes.amax()) <= 1.5 and side > 8:
        return "failure", (
            f"All coordinates lie below 1.5 in an image of {look.size[0]}x{look.size[1]} pixels: normalised boxes. "
            "Multiply by the image's width and height (of a DETR-like, first make corners of centres and sizes)."
        )
    if bool((boxes[:, 2:] < boxes[:, :2]).any()):
        return "failure", (
            "An x_max or y_max is less than its x_min or y_min: not XYXY. Is it XYWH (corner, width, height) or CXCYWH "
            f"(centre, width, height)? Convert it: {_CONVERT['XYWH (corner, width, height)']}."
        )
    by_truth = _format_by_annotations(look)
    other = by_truth or _format_by_shift(look)
    if other in _CONVERT:
        seen = "fit the annotations as" if by_truth else f"move with the image, shifted by {_SHIFT} pixels, as"
        return "failure", f"Boxes {seen} {other}, not as XYXY. Convert them: {_CONVERT[other]}."
    if other is None:
        return "undecided", (
            f"x_max > x_min everywhere, but the detector does not find the same in the image shifted by {_SHIFT} "
            "pixels, as an untrained one may not. Give annotations=, or an image in which it is sure."
        )
    return "ok", "XYXY: " + ("they fit the annotations." if by_truth else "all four coordinates move with the image.")


def _readings(boxes: Tensor) -> dict[str, Tensor]:
    """Return boxes as XYXY if they were meant in each format."""
    return {
        "XYXY": boxes,
        "XYWH (corner, width, height)": box_convert(boxes, "xywh", "xyxy"),
        "CXCYWH (centre, width, height)": box_convert(boxes, "cxcywh", "xyxy"),
        "YXYX (rows before columns)": boxes[:, [1, 0, 3, 2]],
    }


def _format_by_annotations(look: Look) -> str | None:
    """Return the format in which annotated objects are hit best, None if none hits them."""
    if look.truth is None or len(look.truth.labels) == 0:
        return None
    truth = look.truth.boxes
    hits = {
        name: float(box_iou(truth, boxes.to(truth)).amax(1).mean())
        for name, boxes in _readings(look.best.boxes).items()
    }
    best = max(hits, key=lambda name: hits[name])
    if hits["XYXY"] >= 0.5 or hits[best] < hits["XYXY"] + 0.2:
        best = "XYXY"
    return best if hits[best] >= 0.5 else None


def _format_by_shift(look: Look) -> str | None:
    """Return the format in which boxes follow the image, None if they do not.

    The image is put into a larger one, further right and down, on the mean colour of its border.
    """
    right, down = _SHIFT
    border = torch.cat([look.image[:, 0], look.image[:, -1], look.image[:, :, 0], look.image[:, :, -1]], 1).mean(1)
    larger = border[:, None, None].expand(3, look.size[1] + down, look.size[0] + right).clone()
    larger[:, down:, right:] = look.image
    moves = {
        "XYXY": (right, down, right, down),
        "XYWH (corner, width, height)": (right, down, 0, 0),
        "YXYX (rows before columns)": (down, right, down, right),
    }
    best = look.best.boxes
    return _followed(look, larger, {name: best + best.new_tensor(by) for name, by in moves.items()}, 8.0)


def check_frame(look: Look) -> Verdict:
    """Tell pixels of the image from those of a resized one: by its border, and by how boxes grow with the image."""
    best = look.best
    if len(best) == 0 or float(best.boxes.amax()) <= 1.5:
        return "undecided", "There are no boxes in pixels to look at."
    size = best.boxes.new_tensor(look.size)
    centres = (best.boxes[:, :2] + best.boxes[:, 2:]) / 2
    resized = (
        "Does the model resize its input? Then boxes are in the frame of the resized image: multiply them by the size "
        "of the image that `detect` was given over the size that the model saw (transformers: `target_sizes`)."
    )
    if bool(((centres > size) | (centres < 0)).any()):
        return "failure", f"A box has its centre outside the image of {look.size[0]}x{look.size[1]} pixels. {resized}"
    larger = functional.interpolate(look.image[None], scale_factor=_SCALE, mode="bilinear")[0]
    way = _followed(look, larger, {"grow": best.boxes * _SCALE, "stay": best.boxes}, None)
    if way == "stay":
        return "failure", f"Boxes stay where they are if the image is made {_SCALE} times larger. {resized}"
    beyond = torch.maximum(best.boxes[:, 2:] - size, -best.boxes[:, :2])
    if bool((beyond > 0.25 * size).any()):
        return "warning", "A box reaches beyond the image by more than a quarter of its side. " + resized
    if way is None:
        return "undecided", (
            f"All boxes lie in the image, but the detector does not find the same in it made {_SCALE} times larger."
        )
    return "ok", f"Boxes lie in the image, and grow with it when it is made {_SCALE} times larger."


def _followed(look: Look, image: Tensor, ways: dict[str, Tensor], tolerance: float | None) -> str | None:
    """Return the way by which at least half of the best boxes come from the image to another one, None for none.

    Args:
        look: at the image.
        image: the other one.
        ways: where the best boxes would be in it, ``[K, 4]``.
        tolerance: in pixels; None for a tenth of a box's largest coordinate.
    """
    best = look.best
    try:
        (found,) = look.subject.detect(image)
    except UnusableAnswerError:  # of this size; the check of sizes says so
        return None
    after = best_of(found, 2 * len(best))
    shares = {}
    for name, boxes in ways.items():
        near = 0.1 * boxes.amax(1) if tolerance is None else tolerance
        shares[name] = float((distances(boxes, best.labels, after) <= near).float().mean())
    first, second = sorted(shares, key=lambda name: -shares[name])[:2]
    return first if shares[first] >= 0.5 and shares[second] <= shares[first] / 2 else None
