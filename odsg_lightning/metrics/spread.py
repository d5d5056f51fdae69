"""How far a map spreads: onto other objects, and away from its maximum.

Two measures of ODAM (Zhao & Chan, ICLR 2023), as its published evaluation computes them.
"""

from typing import Any

import torch
from torch import Tensor

from odsg_lightning.metrics.per_object import (
    PerParameterMetric,
    check_corners,
    check_maps,
    check_maps_and_boxes,
    where_defined,
)
from odsg_lightning.saliency.masks import box_pixels


def object_discrimination(maps: Tensor, boxes: Tensor, own: Tensor) -> Tensor:
    """Compute the object discrimination index (ODI) of maps of one image: 0 is best.

    The mass on the boxes of the *other* objects, divided by the mass on the boxes of all objects. A pixel counts once,
    whichever boxes it lies in, and one that is in the own box and in another counts as the other's.

    Args:
        maps: ``[N, 5, H, W]`` saliency maps, not negative, NaN where undefined.
        boxes: ``[G, 4]`` XYXY of every object of the image, pixels of the maps.
        own: ``[N]`` int64 which of the boxes is that of each map's object.

    Returns:
        ``[N, 5]`` 0 to 1; NaN where the map is undefined, has no mass on any box, or there is no other object.

    Raises:
        ValueError: shapes or types that do not fit, an index out of range, or a box without width or height.

    Example:
        >>> maps = torch.zeros(1, 5, 4, 8); maps[..., 1, 1], maps[..., 1, 6], maps[..., 3, 3] = 3, 1, 9  # and outside
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [6.0, 0.0, 8.0, 2.0]])
        >>> object_discrimination(maps, boxes, torch.tensor([0]))[0, 0]
        tensor(0.2500)
    """
    check_maps(maps)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise ValueError(
            f"Expected argument `boxes` to be a float tensor [G, 4], but got {boxes.dtype} {tuple(boxes.shape)}."
        )
    check_corners(boxes)
    if own.shape != (len(maps),) or own.dtype != torch.int64 or not bool(((own >= 0) & (own < len(boxes))).all()):
        raise ValueError(
            f"Expected argument `own` to be int64 [{len(maps)}] with indices of {len(boxes)} boxes, but got "
            f"{own.dtype} {tuple(own.shape)}: {own.tolist()}."
        )
    pixels = box_pixels(boxes.to(maps.device), *maps.shape[2:])
    anywhere = pixels.any(dim=0)
    rows = []
    for of_object, index in zip(maps.double(), own.tolist(), strict=True):
        others = torch.cat([pixels[:index], pixels[index + 1 :]])
        on_others = (of_object * others.any(dim=0)).sum(dim=(1, 2))
        share = on_others / (of_object * anywhere).sum(dim=(1, 2))
        rows.append(share if len(others) else torch.full_like(share, torch.nan))
    return where_defined(torch.stack(rows) if rows else maps.new_zeros(maps.shape[:2]), maps)


def compactness(maps: Tensor, boxes: Tensor) -> Tensor:
    r"""Compute how far each map's mass lies from its maximum, in half diagonals of the object's box.

    :math:`\sqrt{\sum_p M_p \lVert p - \hat p \rVert^2 / (\tfrac{d^2}{4} \sum_p M_p)}` with the pixel :math:`\hat p` of
    the maximum, the first of several, and the box's diagonal :math:`d`. 0 is a single pixel.

    Args:
        maps: ``[N, 5, H, W]`` saliency maps, not negative, NaN where undefined.
        boxes: ``[N, 4]`` XYXY, pixels of the maps.

    Returns:
        ``[N, 5]`` not negative, without an upper bound; NaN where the map is undefined.

    Raises:
        ValueError: shapes or types that do not fit, or a box without width or height.

    Example:
        >>> maps = torch.zeros(1, 5, 8, 8); maps[..., 0, 0], maps[..., 3, 4] = 2, 1  # 5 pixels away
        >>> compactness(maps, torch.tensor([[0.0, 0.0, 6.0, 8.0]]))[0, 0]  # half a diagonal is 5
        tensor(0.5774)
    """
    check_maps_and_boxes(maps, boxes)
    height, width = maps.shape[2:]
    peak = maps.flatten(2).argmax(dim=2)[..., None, None]
    rows, columns = (torch.arange(length, device=maps.device) for length in (height, width))
    away = (rows[:, None] - peak // width) ** 2 + (columns - peak % width) ** 2
    mass = maps.double()
    mean = (mass * away).sum(dim=(2, 3)) / mass.sum(dim=(2, 3))
    diagonal = (boxes[:, 2:] - boxes[:, :2]).double().square().sum(dim=1, keepdim=True).to(maps.device)
    return where_defined((4 * mean / diagonal).sqrt(), maps)


class ObjectDiscrimination(PerParameterMetric):
    """Mean :func:`object_discrimination` over objects, with the values of each object kept.

    ``compute()`` returns a dict of scalars: ``<parameter>/odi``, and ``odi``: the mean over objects of the mean of the
    object's defined box maps. Undefined values are left out.

    Args:
        **kwargs: see ``torchmetrics.Metric``.

    Example:
        >>> metric = ObjectDiscrimination()
        >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 8.0], [4.0, 0.0, 8.0, 8.0]])
        >>> metric.update(torch.ones(2, 5, 8, 8), boxes, torch.tensor([0, 1]))
        >>> metric.compute()["odi"]  # uniform maps of two halves
        tensor(0.5000)
    """

    higher_is_better = False

    def __init__(self, **kwargs: Any) -> None:
        """See the class for the arguments."""
        super().__init__(("odi",), **kwargs)

    def update(self, maps: Tensor, boxes: Tensor, own: Tensor) -> None:
        """Add maps of one image; see :func:`object_discrimination` for shapes and errors."""
        self._keep(object_discrimination(maps, boxes, own))


class Compactness(PerParameterMetric):
    """Mean :func:`compactness` over objects, with the values of each object kept.

    ``compute()`` returns a dict of scalars: ``<parameter>/compactness``, and ``compactness``: the mean over objects of
    the mean of the object's defined box maps. Undefined values are left out.

    Args:
        **kwargs: see ``torchmetrics.Metric``.

    Example:
        >>> metric = Compactness()
        >>> maps = torch.zeros(1, 5, 8, 8); maps[..., 3, 3] = 1
        >>> metric.update(maps, torch.tensor([[0.0, 0.0, 8.0, 8.0]]))
        >>> metric.compute()["compactness"]
        tensor(0.)
    """

    higher_is_better = False

    def __init__(self, **kwargs: Any) -> None:
        """See the class for the arguments."""
        super().__init__(("compactness",), **kwargs)

    def update(self, maps: Tensor, boxes: Tensor) -> None:
        """Add objects; see :func:`compactness` for shapes and errors."""
        self._keep(compactness(maps, boxes))
