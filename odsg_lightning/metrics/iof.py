"""Intersection over foreground (IOF): which share of a saliency map's foreground lies on a region of the object."""

from typing import Any

import torch
from torch import Tensor

from odsg_lightning.metrics.per_object import PerObjectMetric
from odsg_lightning.names import BOX_PARAMETERS, IOF_NAMES, PARAMETERS, SUMMARY_NAMES
from odsg_lightning.saliency.masks import binarise, object_thirds


def intersection_over_foreground(
    maps: Tensor, masks: Tensor, *, blur_sigma: float = 2.0, threshold: float = 0.32
) -> Tensor:
    r"""Compute IOF :math:`= |S \cap R| / |S|` of each object, for every parameter and region.

    :math:`S` is the map's foreground (:func:`~odsg_lightning.saliency.masks.binarise`), :math:`R` the object's
    segmentation or one of its thirds (:func:`~odsg_lightning.saliency.masks.object_thirds`).

    Args:
        maps: ``[N, 5, H, W]`` saliency maps, not negative, NaN where undefined.
        masks: ``[N, H, W]`` bool segmentations.
        blur_sigma: standard deviation of the blur before binarising, in pixels.
        threshold: share of the blurred maximum above which a pixel is foreground.

    Returns:
        ``[N, 17]`` float32, 0 to 1, in the order of ``names.IOF_NAMES``; NaN where the map is undefined.

    Raises:
        ValueError: shapes or types that do not fit, or an empty mask.

    Example:
        >>> maps = torch.zeros(1, 5, 30, 30); maps[..., 15, 4:8] = 1  # four pixels, two of them on the object
        >>> masks = torch.zeros(1, 30, 30, dtype=torch.bool); masks[..., 6:24] = True
        >>> values = intersection_over_foreground(maps, masks, blur_sigma=0)
        >>> dict(zip(IOF_NAMES, values[0].tolist()))["x_min/edge"]
        0.5
    """
    _check(maps, masks)
    values = [
        object_iof(foreground, mask)
        for foreground, mask in zip(binarise(maps, blur_sigma, threshold), masks, strict=True)
    ]
    return torch.stack(values) if values else maps.new_zeros((0, len(IOF_NAMES)), dtype=torch.float32)


def object_iof(foreground: Tensor, mask: Tensor) -> Tensor:
    """Compute the same of one object whose maps are binarised already.

    Args:
        foreground: ``[5, H, W]`` bool, empty where a map is undefined.
        mask: ``[H, W]`` bool segmentation.

    Returns:
        ``[17]`` float32, see :func:`intersection_over_foreground`.

    Raises:
        ValueError: the mask is empty.
    """
    regions = torch.cat([object_thirds(mask), mask.expand(len(BOX_PARAMETERS), 1, *mask.shape)], dim=1)
    box = share_in_region(foreground[: len(BOX_PARAMETERS), None], regions)
    return torch.cat([box.flatten(), share_in_region(foreground[-1:], mask)])


def share_in_region(foreground: Tensor, region: Tensor) -> Tensor:
    """Return ``|S & R| / |S|`` over the last two dimensions, NaN where the foreground is empty.

    Args:
        foreground: ``[..., H, W]`` bool.
        region: ``[..., H, W]`` bool, broadcast against ``foreground``.
    """
    inside = (foreground & region).sum(dim=(-2, -1), dtype=torch.float32)
    return inside / foreground.sum(dim=(-2, -1), dtype=torch.float32)  # 0 / 0 is NaN: undefined


def _check(maps: Tensor, masks: Tensor) -> None:
    if maps.ndim != 4 or maps.shape[1] != len(PARAMETERS) or not maps.is_floating_point():
        raise ValueError(
            f"Expected argument `maps` to be a float tensor [N, 5, H, W], but got {maps.dtype} {tuple(maps.shape)}."
        )
    expected = (maps.shape[0], *maps.shape[2:])
    if masks.dtype != torch.bool or masks.shape != expected:
        raise ValueError(
            f"Expected argument `masks` to be a bool tensor {expected}, but got {masks.dtype} {tuple(masks.shape)}."
        )


class IntersectionOverForeground(PerObjectMetric):
    """Mean :func:`intersection_over_foreground` over objects, with the values of each object kept.

    ``per_object()`` returns them, ``[N, 17]`` in the order of ``names.IOF_NAMES``. ``compute()`` returns a dict of
    scalars: these 17 names, and the summaries ``object``, ``edge``, ``middle`` and ``opposite``: the mean over objects
    of the mean of the object's defined box maps. An undefined value is left out of every mean; a mean of nothing is
    NaN.

    Args:
        blur_sigma: standard deviation of the blur before binarising, in pixels.
        threshold: share of the blurred maximum above which a pixel is foreground.
        **kwargs: see ``torchmetrics.Metric``.

    Example:
        >>> metric = IntersectionOverForeground()
        >>> maps = torch.zeros(1, 5, 30, 30); maps[..., 15, 15] = 1
        >>> mask = torch.zeros(1, 30, 30, dtype=torch.bool); mask[..., 5:25, 5:25] = True
        >>> metric.update(maps, mask)
        >>> metric.compute()["object"]
        tensor(1.)
    """

    higher_is_better = True

    def __init__(self, blur_sigma: float = 2.0, threshold: float = 0.32, **kwargs: Any) -> None:
        """See the class for the arguments."""
        super().__init__((len(IOF_NAMES),), **kwargs)
        self.blur_sigma = blur_sigma
        self.threshold = threshold

    def update(self, maps: Tensor | None = None, masks: Tensor | None = None, *, values: Tensor | None = None) -> None:
        """Add objects: their maps and masks, or the values that :func:`intersection_over_foreground` gave of them.

        Raises:
            ValueError: see there; or neither, or values that are not ``[N, 17]``.
        """
        if values is None:
            if maps is None or masks is None:
                raise ValueError("Expected arguments `maps` and `masks`, or `values`, but got neither.")
            values = intersection_over_foreground(maps, masks, blur_sigma=self.blur_sigma, threshold=self.threshold)
        if values.ndim != 2 or values.shape[1] != len(IOF_NAMES):
            raise ValueError(f"Expected argument `values` to be [N, {len(IOF_NAMES)}], but got {tuple(values.shape)}.")
        self._keep(values)

    def compute(self) -> dict[str, Tensor]:
        """Return the mean of every name, as scalars."""
        values = self.per_object()
        means = dict(zip(IOF_NAMES, values.nanmean(dim=0), strict=True))
        for region in SUMMARY_NAMES:
            columns = [IOF_NAMES.index(f"{parameter}/{region}") for parameter in BOX_PARAMETERS]
            means[region] = values[:, columns].nanmean(dim=1).nanmean()
        return means
