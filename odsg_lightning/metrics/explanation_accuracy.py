"""Visual explanation accuracy: how well a thresholded map covers the object's segmentation."""

from typing import Any

import torch
from torch import Tensor

from odsg_lightning.metrics.per_object import PerParameterMetric, check_maps_and_masks, check_not_empty, where_defined

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Of a map that ranges from 0 to 1."""

ACCURACY_NAMES = (*map(str, THRESHOLDS), "accuracy")


def visual_explanation_accuracy(maps: Tensor, masks: Tensor) -> Tensor:
    r"""Compute the IoU of each map above a threshold with the segmentation (as ODAM evaluates it).

    :math:`|\{M > t\} \cap R| / |\{M > t\} \cup R|` of the map :math:`M` stretched to the range 0 to 1, no blur.

    Args:
        maps: ``[N, 5, H, W]`` saliency maps, not negative, NaN where undefined.
        masks: ``[N, H, W]`` bool segmentations.

    Returns:
        ``[N, 5, 10]`` 0 to 1: for each of :data:`THRESHOLDS`, then their mean; NaN where the map is undefined or the
        same at every pixel.

    Raises:
        ValueError: shapes or types that do not fit, or an empty mask.

    Example:
        >>> maps = torch.zeros(1, 5, 2, 4); maps[..., 0, :] = torch.tensor([1.0, 0.85, 0.45, 0.0])
        >>> masks = torch.zeros(1, 2, 4, dtype=torch.bool); masks[:, 0, :2] = True
        >>> [round(value, 2) for value in visual_explanation_accuracy(maps, masks)[0, 0].tolist()]
        [0.67, 0.67, 0.67, 0.67, 1.0, 1.0, 1.0, 1.0, 0.5, 0.8]
    """
    check_maps_and_masks(maps, masks)
    check_not_empty(masks)
    dtype = torch.promote_types(maps.dtype, torch.float32)
    flat, on_object = maps.to(dtype).flatten(2), masks.flatten(1)[:, None]
    least, most = flat.amin(dim=2, keepdim=True), flat.amax(dim=2, keepdim=True)
    stretched = (flat - least) / (most - least)
    overlaps = []
    for threshold in THRESHOLDS:
        above = stretched > threshold
        overlaps.append((above & on_object).sum(dim=2).to(dtype) / (above | on_object).sum(dim=2))
    values = torch.stack(overlaps, dim=2)
    values = torch.cat([values, values.mean(dim=2, keepdim=True)], dim=2)
    return where_defined(values.where(most > least, torch.nan), maps)


class VisualExplanationAccuracy(PerParameterMetric):
    """Mean :func:`visual_explanation_accuracy` over objects, with the values of each object kept.

    ``compute()`` returns a dict of scalars: ``<parameter>/0.1`` to ``/0.9`` and ``<parameter>/accuracy``, the mean of
    the thresholds; and the same without a parameter: the mean over objects of the mean of the object's defined box
    maps. Undefined values are left out.

    Args:
        **kwargs: see ``torchmetrics.Metric``.

    Example:
        >>> metric = VisualExplanationAccuracy()
        >>> masks = torch.zeros(1, 8, 8, dtype=torch.bool); masks[..., 2:6, 2:6] = True
        >>> metric.update(masks[:, None].expand(-1, 5, -1, -1).float(), masks)
        >>> metric.compute()["score/accuracy"]
        tensor(1.)
    """

    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        """See the class for the arguments."""
        super().__init__(ACCURACY_NAMES, **kwargs)

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Add objects; see :func:`visual_explanation_accuracy` for shapes and errors."""
        self._keep(visual_explanation_accuracy(maps, masks))
