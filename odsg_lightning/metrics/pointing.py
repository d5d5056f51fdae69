"""Whether a map points at its object: where its maximum lies, and how much of its mass."""

from typing import Any

import torch
from torch import Tensor

from odsg_lightning.metrics.per_object import (
    PerParameterMetric,
    check_maps_and_boxes,
    check_maps_and_masks,
    check_not_empty,
    where_defined,
)
from odsg_lightning.saliency.masks import box_pixels

POINTING_NAMES = ("mask", "box", "ties")
ENERGY_NAMES = ("mask", "box")


def pointing_game(maps: Tensor, masks: Tensor, boxes: Tensor) -> Tensor:
    """Say whether each map's maximum lies on the object (Zhang et al., *Top-down Neural Attention*, 2018).

    - ``mask``: 1 if it lies on the object's segmentation, otherwise 0;
    - ``box``: the same for its box: a pixel belongs to it if its centre does;
    - ``ties``: how many other pixels have the same value. Of several, the first counts, row by row.

    No blur and no tolerance around the object. ``maps/pointing_game`` of an audit is taken after the blur.

    Args:
        maps: ``[N, 5, H, W]`` saliency maps, not negative, NaN where undefined.
        masks: ``[N, H, W]`` bool segmentations.
        boxes: ``[N, 4]`` XYXY, pixels of the maps.

    Returns:
        ``[N, 5, 3]`` in the order of :data:`POINTING_NAMES`; NaN where the map is undefined.

    Raises:
        ValueError: shapes or types that do not fit, an empty mask, or a box without width or height.

    Example:
        >>> maps = torch.zeros(1, 5, 4, 4); maps[..., 1, 1], maps[..., 3, 3] = 2, 1
        >>> masks = torch.zeros(1, 4, 4, dtype=torch.bool); masks[..., 0, :3] = masks[..., :3, 0] = True
        >>> pointing_game(maps, masks, torch.tensor([[0.0, 0.0, 3.0, 3.0]]))[0, 0]  # in the corner of an L: in its box
        tensor([0., 1., 0.])
    """
    regions = _regions(maps, masks, boxes)
    flat = maps.flatten(2)
    first = flat.argmax(dim=2)
    inside = regions.flatten(2).gather(2, first[:, None].expand(-1, len(ENERGY_NAMES), -1)).transpose(1, 2)
    ties = (flat == flat.amax(dim=2, keepdim=True)).sum(dim=2, keepdim=True) - 1
    return where_defined(torch.cat([inside, ties], dim=2), maps)


def energy_pointing_game(maps: Tensor, masks: Tensor, boxes: Tensor) -> Tensor:
    r"""Compute which share of each map's mass lies on the object (Wang et al., *Score-CAM*, 2020).

    :math:`\sum_{p \in R} M_p / \sum_p M_p` for the segmentation (*relevance mass accuracy*, Arras et al. 2022) and for
    the box, the pixels whose centre lies in it. A uniform map has the region's share of the image.

    Args:
        maps: ``[N, 5, H, W]`` saliency maps, not negative, NaN where undefined.
        masks: ``[N, H, W]`` bool segmentations.
        boxes: ``[N, 4]`` XYXY, pixels of the maps.

    Returns:
        ``[N, 5, 2]`` for mask and box, 0 to 1; NaN where the map is undefined.

    Raises:
        ValueError: see :func:`pointing_game`.

    Example:
        >>> masks = torch.zeros(1, 4, 4, dtype=torch.bool); masks[..., 0, :3] = masks[..., :3, 0] = True
        >>> energy_pointing_game(torch.ones(1, 5, 4, 4), masks, torch.tensor([[0.0, 0.0, 3.0, 3.0]]))[0, 0]
        tensor([0.3125, 0.5625])
    """
    regions = _regions(maps, masks, boxes)
    mass = maps.double()
    inside = torch.einsum("nphw,nrhw->npr", mass, regions.double())
    return where_defined(inside / mass.sum(dim=(2, 3))[..., None], maps)


def _regions(maps: Tensor, masks: Tensor, boxes: Tensor) -> Tensor:
    """``[N, 2, H, W]`` the pixels of mask and box."""
    check_maps_and_masks(maps, masks)
    check_maps_and_boxes(maps, boxes)
    check_not_empty(masks)
    return torch.stack([masks, box_pixels(boxes.to(maps.device), *maps.shape[2:])], dim=1)


class PointingGame(PerParameterMetric):
    """Mean :func:`pointing_game` over objects, with the values of each object kept.

    ``compute()`` returns a dict of scalars: ``<parameter>/mask``, ``/box`` and ``/ties``, and ``mask``, ``box`` and
    ``ties``: the mean over objects of the mean of the object's defined box maps. Undefined values are left out.

    Args:
        **kwargs: see ``torchmetrics.Metric``.

    Example:
        >>> metric = PointingGame()
        >>> maps = torch.zeros(1, 5, 8, 8); maps[..., 3, 3] = 1
        >>> metric.update(maps, torch.ones(1, 8, 8, dtype=torch.bool), torch.tensor([[0.0, 0.0, 8.0, 8.0]]))
        >>> metric.compute()["score/mask"]
        tensor(1.)
    """

    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        """See the class for the arguments."""
        super().__init__(POINTING_NAMES, **kwargs)

    def update(self, maps: Tensor, masks: Tensor, boxes: Tensor) -> None:
        """Add objects; see :func:`pointing_game` for shapes and errors."""
        self._keep(pointing_game(maps, masks, boxes))


class EnergyPointingGame(PerParameterMetric):
    """Mean :func:`energy_pointing_game` over objects, with the values of each object kept.

    ``compute()`` returns a dict of scalars: ``<parameter>/mask`` and ``/box``, and ``mask`` and ``box``: the mean over
    objects of the mean of the object's defined box maps. Undefined values are left out.

    Args:
        **kwargs: see ``torchmetrics.Metric``.

    Example:
        >>> metric = EnergyPointingGame()
        >>> maps, masks = torch.ones(1, 5, 8, 8), torch.ones(1, 8, 8, dtype=torch.bool)
        >>> metric.update(maps, masks, torch.tensor([[0.0, 0.0, 8.0, 2.0]]))
        >>> metric.compute()["box"]
        tensor(0.2500)
    """

    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        """See the class for the arguments."""
        super().__init__(ENERGY_NAMES, **kwargs)

    def update(self, maps: Tensor, masks: Tensor, boxes: Tensor) -> None:
        """Add objects; see :func:`energy_pointing_game` for shapes and errors."""
        self._keep(energy_pointing_game(maps, masks, boxes))
