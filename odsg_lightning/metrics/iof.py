"""Intersection over foreground (IOF): which share of a saliency map's foreground lies on a region of the object."""

from typing import Any

import torch
from torch import Tensor

from odsg_lightning.metrics.per_object import PerObjectMetric, check_maps_and_masks
from odsg_lightning.names import BOX_PARAMETERS, IOF_NAMES, SUMMARY_NAMES
from odsg_lightning.saliency.masks import above_share, grown, object_size, object_thirds, smoothed


def intersection_over_foreground(
    maps: Tensor,
    masks: Tensor,
    *,
    blur_sigma: float = 2.0,
    threshold: float = 0.32,
    near_threshold: float = 0.5,
    near_margin: float = 0.2,
) -> Tensor:
    r"""Compute IOF :math:`= |S \cap R| / |S|` of each object, for every parameter and region.

    :math:`S` is the map's foreground (:func:`~odsg_lightning.saliency.masks.binarise`), :math:`R` the object's
    segmentation or one of its thirds (:func:`~odsg_lightning.saliency.masks.object_thirds`), as in the paper. How much
    of a foreground lies on the object depends on how large the two are; so for ``near``, :math:`S` is what exceeds a
    higher share of the maximum, and :math:`R` the segmentation grown by a share of its size.

    Args:
        maps: ``[N, 5, H, W]`` saliency maps, not negative, NaN where undefined.
        masks: ``[N, H, W]`` bool segmentations.
        blur_sigma: standard deviation of the blur before binarising, in pixels.
        threshold: share of the blurred maximum above which a pixel is foreground.
        near_threshold: the same for ``near``.
        near_margin: by how much the segmentation grows for ``near``, as a share of its size, the square root of its
            extent's width times height.

    Returns:
        ``[N, 22]`` float32, 0 to 1, in the order of ``names.IOF_NAMES``; NaN where the map is undefined.

    Raises:
        ValueError: shapes or types that do not fit, or an empty mask.

    Example:
        >>> maps = torch.zeros(1, 5, 30, 30); maps[..., 15, 4:8] = 1  # four pixels, two of them on the object
        >>> masks = torch.zeros(1, 30, 30, dtype=torch.bool); masks[..., 6:24] = True
        >>> values = intersection_over_foreground(maps, masks, blur_sigma=0)
        >>> by_name = dict(zip(IOF_NAMES, values[0].tolist()))
        >>> by_name["x_min/edge"], by_name["x_min/near"]  # two pixels more are within a fifth of its size
        (0.5, 1.0)
    """
    check_maps_and_masks(maps, masks)
    values = []
    for of_object, mask in zip(maps, masks, strict=True):
        smooth = smoothed(of_object, blur_sigma)
        core = above_share(smooth, near_threshold)
        values.append(object_iof(above_share(smooth, threshold), core, mask, near_margin))
    return torch.stack(values) if values else maps.new_zeros((0, len(IOF_NAMES)), dtype=torch.float32)


def object_iof(foreground: Tensor, core: Tensor, mask: Tensor, near_margin: float) -> Tensor:
    """Compute the same of one object whose maps are binarised already.

    Args:
        foreground: ``[5, H, W]`` bool, empty where a map is undefined.
        core: ``[5, H, W]`` bool, the foreground at the higher share, for ``near``.
        mask: ``[H, W]`` bool segmentation.
        near_margin: see :func:`intersection_over_foreground`.

    Returns:
        ``[22]`` float32, see there.

    Raises:
        ValueError: the mask is empty.
    """
    regions = torch.cat([object_thirds(mask), mask.expand(len(BOX_PARAMETERS), 1, *mask.shape)], dim=1)
    box = share_in_region(foreground[: len(BOX_PARAMETERS), None], regions)
    near = share_in_region(core, grown(mask, near_margin * object_size(mask)))
    return torch.cat([box.flatten(), share_in_region(foreground[-1:], mask), near])


def share_in_region(foreground: Tensor, region: Tensor) -> Tensor:
    """Return ``|S & R| / |S|`` over the last two dimensions, NaN where the foreground is empty.

    Args:
        foreground: ``[..., H, W]`` bool.
        region: ``[..., H, W]`` bool, broadcast against ``foreground``.
    """
    inside = (foreground & region).sum(dim=(-2, -1), dtype=torch.float32)
    return inside / foreground.sum(dim=(-2, -1), dtype=torch.float32)  # 0 / 0 is NaN: undefined


class IntersectionOverForeground(PerObjectMetric):
    """Mean :func:`intersection_over_foreground` over objects, with the values of each object kept.

    ``per_object()`` returns them, ``[N, 22]`` in the order of ``names.IOF_NAMES``. ``compute()`` returns a dict of
    scalars: these 22 names, and the summaries ``object``, ``near``, ``edge``, ``middle`` and ``opposite``: the mean
    over objects of the mean of the object's defined box maps. An undefined value is left out of every mean; a mean of
    nothing is NaN.

    Args:
        blur_sigma: standard deviation of the blur before binarising, in pixels.
        threshold: share of the blurred maximum above which a pixel is foreground.
        near_threshold: the same for ``near``.
        near_margin: by how much the segmentation grows for ``near``, as a share of its size.
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

    def __init__(
        self,
        blur_sigma: float = 2.0,
        threshold: float = 0.32,
        near_threshold: float = 0.5,
        near_margin: float = 0.2,
        **kwargs: Any,
    ) -> None:
        """See the class for the arguments."""
        super().__init__((len(IOF_NAMES),), **kwargs)
        self.blur_sigma = blur_sigma
        self.threshold = threshold
        self.near_threshold = near_threshold
        self.near_margin = near_margin

    def update(self, maps: Tensor | None = None, masks: Tensor | None = None, *, values: Tensor | None = None) -> None:
        """Add objects: their maps and masks, or the values that :func:`intersection_over_foreground` gave of them.

        Raises:
            ValueError: see there; or neither, or values that are not ``[N, 22]``.
        """
        if values is None:
            if maps is None or masks is None:
                raise ValueError("Expected arguments `maps` and `masks`, or `values`, but got neither.")
            values = intersection_over_foreground(
                maps,
                masks,
                blur_sigma=self.blur_sigma,
                threshold=self.threshold,
                near_threshold=self.near_threshold,
                near_margin=self.near_margin,
            )
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
