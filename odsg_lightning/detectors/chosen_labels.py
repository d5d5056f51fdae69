"""From the labels of a model to the classes of an audit set."""

from collections.abc import Sequence

import torch

from odsg_lightning.types import Detections


def with_labels(detections: Detections, labels: Sequence[int] | None) -> Detections:
    """Return the detections of some labels, numbered in the order of these.

    Args:
        detections: with a model's labels.
        labels: the model's label of each class; None if they are the classes already.

    Example:
        >>> detections = Detections(torch.zeros(3, 4), torch.tensor([0.9, 0.8, 0.7]), torch.tensor([13, 1, 12]))
        >>> with_labels(detections, [1, 13]).labels
        tensor([1, 0])
    """
    if labels is None:
        return detections
    same = detections.labels[:, None] == torch.tensor(labels, device=detections.labels.device)
    kept = detections[same.any(dim=1)]
    return Detections(kept.boxes, kept.scores, same.int().argmax(dim=1)[same.any(dim=1)])
