"""The heads of Detectron2 whose numbers can be asked for: RetinaNet's, and a box head with one predictor."""

from typing import Any

from torch import Tensor, nn

from odsg_lightning.detectors.detectron2_names import Boxes, Res5ROIHeads, RetinaNet, StandardROIHeads
from odsg_lightning.errors import UserInputError


def head_kind(model: Any) -> type[nn.Module]:
    """Return which kind of head a model has: ``RetinaNet``, ``StandardROIHeads`` or ``Res5ROIHeads``.

    Raises:
        UserInputError: none that is known here.
    """
    if isinstance(model, RetinaNet):
        retinanet: type[nn.Module] = RetinaNet
        return retinanet
    heads = getattr(model, "roi_heads", None)
    known: tuple[type[nn.Module], ...] = (StandardROIHeads, Res5ROIHeads)
    kind = next((kind for kind in known if isinstance(heads, kind)), None)
    predictor: Any = getattr(heads, "box_predictor", None)
    if kind is None or not hasattr(predictor, "box2box_transform") or len(predictor.box2box_transform.weights) != 4:
        raise UserInputError(
            "Expected a RetinaNet, or a Faster R-CNN with one box predictor of upright boxes, to explain logits and "
            f"unclipped boxes, but got a {type(model).__name__} with {type(heads).__name__} and "
            f"{type(predictor).__name__}: target='output' explains what it returns."
        )
    return kind


def num_classes(model: Any) -> int:
    """Return the number of classes, without the background."""
    return int(model.num_classes if isinstance(model, RetinaNet) else model.roi_heads.num_classes)


def head_features(model: Any) -> list[str]:
    """Return the names of the backbone's features that the head is given."""
    if isinstance(model, RetinaNet):
        return list(model.head_in_features)
    heads = model.roi_heads
    return list(heads.box_in_features if isinstance(heads, StandardROIHeads) else heads.in_features)


def of_regions(model: Any, features: dict[str, Tensor], regions: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return logits and deltas of regions of interest, as Detectron2's own box head computes them.

    Args:
        model: a Faster R-CNN.
        features: of its backbone.
        regions: ``[P, 4]`` XYXY of each image.

    Returns:
        ``[sum of P, classes + 1]`` and ``[sum of P, 4]`` or ``[sum of P, 4 * classes]``, image after image.
    """
    heads = model.roi_heads
    used, boxes = [features[name] for name in head_features(model)], [Boxes(of_image) for of_image in regions]
    if isinstance(heads, StandardROIHeads):
        pooled = heads.box_head(heads.box_pooler(used, boxes))
    else:
        pooled = heads._shared_roi_transform(used, boxes).mean(dim=[2, 3])
    logits, deltas = heads.box_predictor(pooled)
    return logits, deltas
