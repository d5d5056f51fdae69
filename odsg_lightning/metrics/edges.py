"""Which edge of an object its box maps lean to, without what IOF mixes in: the areas of the thirds, blur, threshold.

A uniform map puts most of its foreground on the middle third of a star, whose middle is its largest part, and a blur of
2 px carries a third of what lies on the edge of a small object beyond it. Both hide in a difference of IOF.
"""

from typing import Any

import torch
from torch import Tensor

from odsg_lightning.metrics.per_object import PerObjectMetric, check_maps_and_masks
from odsg_lightning.names import BOX_PARAMETERS, REGIONS
from odsg_lightning.saliency.masks import binarise, defined_maps, mask_extent, object_thirds

ENRICHMENT_NAMES = tuple(f"{parameter}/{region}" for parameter in BOX_PARAMETERS for region in REGIONS)


def enrichment(maps: Tensor, masks: Tensor, *, blur_sigma: float = 2.0, threshold: float = 0.32) -> Tensor:
    r"""Compute how much more of the foreground lies on each third of an object than of a uniform map.

    Of what lies on the object at all, the share of a third, divided by the third's share of the object's pixels:
    :math:`\frac{|S \cap R|}{|S \cap O|} \cdot \frac{|O|}{|R|}`. 1 is a uniform map.

    Args:
        maps: ``[N, 5, H, W]`` saliency maps, not negative, NaN where undefined.
        masks: ``[N, H, W]`` bool segmentations.
        blur_sigma: standard deviation of the blur before binarising, in pixels.
        threshold: share of the blurred maximum above which a pixel is foreground.

    Returns:
        ``[N, 4, 3]`` float32 for x_min, y_min, x_max, y_max and ``names.REGIONS``, not negative; NaN where the map is
        undefined or none of its foreground lies on the object, and for a third without a pixel.

    Raises:
        ValueError: shapes or types that do not fit, or an empty mask.

    Example:
        >>> maps = torch.zeros(1, 5, 9, 9); maps[..., 4, 3], maps[..., 4, 2] = 1, 1  # one on the object, one beside it
        >>> masks = torch.zeros(1, 9, 9, dtype=torch.bool); masks[..., 3:6, 3:6] = True
        >>> enrichment(maps, masks, blur_sigma=0)[0, 0]  # all of x_min's on a third of the area
        tensor([3., 0., 0.])
    """
    check_maps_and_masks(maps, masks)
    rows = []
    for of_object, mask in zip(maps, masks, strict=True):
        rows.append(object_enrichment(binarise(of_object, blur_sigma, threshold), mask))
    return torch.stack(rows) if rows else maps.new_zeros((0, len(BOX_PARAMETERS), len(REGIONS)), dtype=torch.float32)


def object_enrichment(foreground: Tensor, mask: Tensor) -> Tensor:
    """Compute :func:`enrichment` of one object from its binarised maps ``[5, H, W]``: ``[4, 3]`` float32."""
    thirds = object_thirds(mask)
    inside = (foreground[: len(BOX_PARAMETERS), None] & thirds).sum(dim=(-2, -1), dtype=torch.float32)
    area = thirds.sum(dim=(-2, -1), dtype=torch.float32)
    return inside / inside.sum(dim=1, keepdim=True) / (area / area.sum(dim=1, keepdim=True))


def position(maps: Tensor, masks: Tensor) -> Tensor:
    """Compute where across an object each box map's mass lies: 0 at the parameter's own edge, 1 at the other.

    The mean coordinate of the whole map's mass along the parameter's axis, in extents of the object. No blur, no
    threshold, no thirds. Mass beyond the object counts, so that a shift of the whole map shows; a mean beyond the
    parameter's own edge is negative.

    Args:
        maps: ``[N, 5, H, W]`` saliency maps, not negative, NaN where undefined.
        masks: ``[N, H, W]`` bool segmentations.

    Returns:
        ``[N, 4]`` float32; NaN where the map is undefined.

    Raises:
        ValueError: shapes or types that do not fit, or an empty mask.

    Example:
        >>> maps = torch.zeros(1, 5, 12, 12); maps[..., 4, 2] = 1  # in the first of the object's ten columns
        >>> masks = torch.zeros(1, 12, 12, dtype=torch.bool); masks[..., 2:12, 2:12] = True
        >>> position(maps, masks)[0]  # x_min, y_min, x_max, y_max
        tensor([0.0500, 0.2500, 0.9500, 0.7500])
    """
    check_maps_and_masks(maps, masks)
    rows = []
    for of_object, mask in zip(maps, masks, strict=True):
        top, left, bottom, right = mask_extent(mask)
        maps_of_box = of_object[: len(BOX_PARAMETERS)].double()
        maps_of_box = maps_of_box.where(defined_maps(of_object)[: len(BOX_PARAMETERS), None, None], torch.nan)
        means = []
        for index, of_parameter in enumerate(maps_of_box):
            start, end = ((left, right), (top, bottom))[index % 2]
            mass = of_parameter.sum(dim=index % 2)  # over rows for x, over columns for y
            middles = torch.arange(len(mass), dtype=mass.dtype, device=mass.device) + 0.5
            mean = ((mass * middles).sum() / mass.sum() - start) / (end - start)
            means.append(mean if index < 2 else 1 - mean)
        rows.append(torch.stack(means).float())
    return torch.stack(rows) if rows else maps.new_zeros((0, len(BOX_PARAMETERS)), dtype=torch.float32)


class Enrichment(PerObjectMetric):
    """Mean :func:`enrichment` over objects, with the values of each object kept.

    ``compute()`` returns a dict of scalars: :data:`ENRICHMENT_NAMES`, and ``edge``, ``middle`` and ``opposite``: the
    mean over objects of the mean of the object's defined box maps. An undefined value is left out of every mean.

    Args:
        blur_sigma: standard deviation of the blur before binarising, in pixels.
        threshold: share of the blurred maximum above which a pixel is foreground.
        **kwargs: see ``torchmetrics.Metric``.

    Example:
        >>> metric = Enrichment(blur_sigma=0)
        >>> maps, masks = torch.ones(1, 5, 9, 9), torch.ones(1, 9, 9, dtype=torch.bool)
        >>> metric.update(maps, masks)
        >>> metric.compute()["edge"]  # uniform
        tensor(1.)
    """

    def __init__(self, blur_sigma: float = 2.0, threshold: float = 0.32, **kwargs: Any) -> None:
        """See the class for the arguments."""
        super().__init__((len(BOX_PARAMETERS), len(REGIONS)), **kwargs)
        self.blur_sigma = blur_sigma
        self.threshold = threshold

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Add objects: their maps ``[N, 5, H, W]`` and masks ``[N, H, W]``."""
        self._keep(enrichment(maps, masks, blur_sigma=self.blur_sigma, threshold=self.threshold))

    def compute(self) -> dict[str, Tensor]:
        """Return the mean of every name, as scalars."""
        values = self.per_object()
        means = dict(zip(ENRICHMENT_NAMES, values.flatten(1).nanmean(dim=0), strict=True))
        return means | dict(zip(REGIONS, values.nanmean(dim=1).nanmean(dim=0), strict=True))


class Position(PerObjectMetric):
    """Mean :func:`position` over objects, with the values of each object kept.

    ``compute()`` returns a dict of scalars: one for each box parameter, and ``mean`` over these. An undefined value is
    left out of every mean.

    Args:
        **kwargs: see ``torchmetrics.Metric``.

    Example:
        >>> metric = Position()
        >>> metric.update(torch.ones(1, 5, 9, 9), torch.ones(1, 9, 9, dtype=torch.bool))
        >>> metric.compute()["x_min"]  # uniform
        tensor(0.5000)
    """

    higher_is_better = False

    def __init__(self, **kwargs: Any) -> None:
        """See the class for the arguments."""
        super().__init__((len(BOX_PARAMETERS),), **kwargs)

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Add objects: their maps ``[N, 5, H, W]`` and masks ``[N, H, W]``."""
        self._keep(position(maps, masks))

    def compute(self) -> dict[str, Tensor]:
        """Return the mean of every parameter, as scalars."""
        values = self.per_object()
        means = dict(zip(BOX_PARAMETERS, values.nanmean(dim=0), strict=True))
        return means | {"mean": values.nanmean(dim=1).nanmean()}
