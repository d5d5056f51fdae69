"""One-to-one matching of boxes of the same class."""

import torch
from torch import Tensor
from torchvision.ops import box_iou


def match_one_to_one(
    boxes: Tensor, labels: Tensor, other_boxes: Tensor, other_labels: Tensor, iou_threshold: float
) -> tuple[Tensor, Tensor]:
    """Match each box to at most one other box of the same class, best IoU first.

    The pair with the highest IoU of all is matched first, then the highest among what is left, while it reaches the
    threshold. Of equal pairs, the lower box index wins, then the lower other index.

    Args:
        boxes: ``[N, 4]`` XYXY.
        labels: ``[N]`` class indices.
        other_boxes: ``[M, 4]`` XYXY.
        other_labels: ``[M]`` class indices.
        iou_threshold: least IoU of a match, inclusive.

    Returns:
        ``[N]`` int64 index of the matched other box, -1 without one, and ``[N]`` the IoU of the match, NaN without.

    Example:
        >>> boxes, labels = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]]), torch.tensor([0, 1])
        >>> match_one_to_one(boxes, labels, torch.tensor([[0.0, 0, 10, 8]]), torch.tensor([0]), iou_threshold=0.5)
        (tensor([ 0, -1]), tensor([0.8000,    nan]))
    """
    matches = torch.full((len(boxes),), -1, dtype=torch.int64)
    ious = torch.full((len(boxes),), torch.nan, dtype=boxes.dtype)
    if len(boxes) == 0 or len(other_boxes) == 0:
        return matches, ious
    iou = box_iou(boxes.detach().cpu(), other_boxes.detach().cpu())
    same_class = labels.cpu()[:, None] == other_labels.cpu()[None]
    candidates = ((iou >= iou_threshold) & same_class).nonzero()  # in order of (box, other): what ties need
    order = iou[candidates[:, 0], candidates[:, 1]].argsort(descending=True, stable=True)
    taken: set[int] = set()
    for row, column in candidates[order].tolist():
        if matches[row] < 0 and column not in taken:
            matches[row], ious[row] = column, iou[row, column]
            taken.add(column)
    return matches, ious
