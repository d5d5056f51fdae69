"""How alike two maps of one number are, as sanity checks ask it: 1 is the same, 0 is nothing in common."""

import torch
from scipy.stats import rankdata
from torch import Tensor

from odsg_lightning.metrics.drift import structural_similarity
from odsg_lightning.metrics.per_object import check_maps_and_boxes, where_defined
from odsg_lightning.saliency.early_stop import correlation_distance
from odsg_lightning.saliency.masks import box_pixels

SIMILARITIES = ("spearman", "spearman_box", "ssim")


def map_similarity(maps: Tensor, other: Tensor, boxes: Tensor) -> Tensor:
    """Compare the maps of each object with other maps of the same object, by magnitude.

    - ``spearman``: rank correlation of the pixels, -1 to 1; equal pixels share the mean of their ranks;
    - ``spearman_box``: the same of the pixels in the object's box alone. Over a whole image ranks follow the distance
      from the object, which every network's receptive field makes;
    - ``ssim``: mean structural similarity, -1 to 1, of the maps divided by their maxima
      (:func:`odsg_lightning.metrics.drift.structural_similarity`).

    Args:
        maps: ``[N, 5, H, W]``; signed ones are taken by their absolute values.
        other: ``[N, 5, H, W]``, likewise.
        boxes: ``[N, 4]`` XYXY, pixels of the maps.

    Returns:
        ``[N, 5, 3]`` float64 in the order of :data:`SIMILARITIES`; NaN where either map is undefined or, of the rank
        correlations, the same at every pixel, and for a box without a pixel.

    Raises:
        ValueError: shapes or types that do not fit, or a box without width or height.

    Example:
        >>> maps = torch.rand(1, 5, 16, 16)
        >>> map_similarity(maps, maps**2, torch.tensor([[2.0, 2.0, 9.0, 9.0]]))[0, 0, :2]  # the same order
        tensor([1., 1.], dtype=torch.float64)
    """
    check_maps_and_boxes(maps, boxes)
    if other.shape != maps.shape or not other.is_floating_point():
        raise ValueError(
            f"Expected argument `other` to be a float tensor {tuple(maps.shape)} as `maps`, but got {other.dtype} "
            f"{tuple(other.shape)}."
        )
    first, second = (one.detach().abs().double() for one in (maps, other))
    inside = box_pixels(boxes.to(maps.device), *maps.shape[2:])
    rows = [
        torch.stack([_spearman(a.flatten(1), b.flatten(1)), _spearman(a[:, region], b[:, region])], dim=1)
        for a, b, region in zip(first, second, inside, strict=True)
    ]
    ranked = torch.stack(rows).to(first) if rows else first.new_zeros(*maps.shape[:2], 2)
    ssim = structural_similarity(*(one / one.amax(dim=(2, 3), keepdim=True) for one in (first, second)))
    return where_defined(where_defined(torch.cat([ranked, ssim[..., None]], dim=2), first), second)


def _spearman(first: Tensor, second: Tensor) -> Tensor:
    """``[5]`` rank correlation of ``[5, P]`` with ``[5, P]``, NaN without pixels."""
    if not first.shape[1]:
        return first.new_full(first.shape[:1], torch.nan)
    ranks = (torch.from_numpy(rankdata(one.cpu().numpy(), axis=1))[..., None] for one in (first, second))
    return 1 - correlation_distance(*ranks)
