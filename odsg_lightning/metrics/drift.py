"""Drift: how far an object's saliency maps have moved between two audits.

Three distances that see a change of dense maps (cosine similarity and divergences hardly do): 0 for the same maps, and
higher for more drift.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from odsg_lightning.metrics.per_object import PerParameterMetric, check_maps, parameter_means
from odsg_lightning.names import PARAMETERS
from odsg_lightning.saliency.early_stop import correlation_distance
from odsg_lightning.saliency.masks import defined_maps

MEASURES = ("pearson", "ssim", "mask_iou")

DRIFT_NAMES = tuple(f"{parameter}/{measure}" for parameter in PARAMETERS for measure in MEASURES)
"""The 15 values of each object."""

SSIM_WINDOW = 11
"""Side of the Gaussian window of SSIM, in pixels."""

_SSIM_SIGMA, _C1, _C2 = 1.5, 0.01**2, 0.03**2  # Wang et al., for values from 0 to 1


def map_drift(maps: Tensor, other: Tensor, foreground: Tensor, other_foreground: Tensor) -> Tensor:
    r"""Compare the maps of each object with its maps of another audit.

    - ``pearson``: 1 less the correlation of the pixels, 0 to 2; undefined for a map that is the same everywhere;
    - ``ssim``: 1 less the mean structural similarity (Wang et al. 2004, Gaussian window of 11 px with a standard
      deviation of 1.5 px), 0 to 2, of the maps divided by their maxima; over the windows that lie inside the map, so
      undefined for maps with a side below 11 px;
    - ``mask_iou``: :math:`1 - |S \cap S'| / |S \cup S'|` of the foregrounds, 0 to 1.

    Args:
        maps: ``[N, 5, H, W]``, not negative; a map that is zero everywhere or not finite is undefined.
        other: ``[N, 5, H, W]`` the other audit's maps of the same objects.
        foreground: ``[N, 5, H, W]`` bool, the binarised ``maps``.
        other_foreground: ``[N, 5, H, W]`` bool, the binarised ``other``.

    Returns:
        ``[N, 5, 3]`` in the order of :data:`MEASURES`, NaN where either map is undefined; in the maps' own precision,
        float32 at least. Equal maps give exactly 0.

    Raises:
        ValueError: shapes or types that do not fit.

    Example:
        >>> maps = torch.zeros(1, 5, 12, 12); maps[..., :2] = 1
        >>> other = torch.zeros(1, 5, 12, 12); other[..., 1:3] = 1
        >>> float(map_drift(maps, other, maps > 0, other > 0)[0, 0, 2])  # overlap: 1 column of 3
        0.6666666865348816
    """
    _check(maps, other, foreground, other_foreground)
    dtype = torch.promote_types(torch.promote_types(maps.dtype, other.dtype), torch.float32)
    maps, other = maps.to(dtype), other.to(dtype)
    first, second = maps / maps.amax(dim=(2, 3), keepdim=True), other / other.amax(dim=(2, 3), keepdim=True)
    similarity, overlap = structural_similarity(first, second), _iou(foreground, other_foreground)
    values = torch.stack([correlation_distance(first, second), 1 - similarity, 1 - overlap], dim=-1)
    defined = defined_maps(maps) & defined_maps(other)
    return values.to(dtype).where(defined[..., None], torch.nan)


def drift_means(values: Tensor) -> dict[str, Tensor]:
    """Return the mean of each of :data:`DRIFT_NAMES`, and of each measure over the box maps.

    Args:
        values: ``[N, 5, 3]``, see :func:`map_drift`. Undefined values are left out; a mean of nothing is NaN.
    """
    return parameter_means(values, MEASURES)


def structural_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean SSIM (Wang et al. 2004) of maps from 0 to 1, over the windows of 11 px that lie inside them.

    By rows, then by columns: two to six times as fast as the two-dimensional filter of torchmetrics.

    Args:
        first: ``[N, P, H, W]`` float.
        second: ``[N, P, H, W]`` float.

    Returns:
        ``[N, P]`` -1 to 1; NaN for maps with a side below 11 px.
    """
    if min(first.shape[2:]) < SSIM_WINDOW or not len(first):
        return first.new_full(first.shape[:2], torch.nan)
    offsets = torch.arange(SSIM_WINDOW, dtype=first.dtype, device=first.device) - SSIM_WINDOW // 2
    window = torch.softmax(-(offsets**2) / (2 * _SSIM_SIGMA**2), dim=0)
    stacked = torch.stack([first, second, first * first, second * second, first * second]).flatten(0, 2)[:, None]
    rows = functional.conv2d(stacked, window.view(1, 1, 1, -1))
    local = functional.conv2d(rows, window.view(1, 1, -1, 1)).reshape(5, *first.shape[:2], -1)
    mean, other_mean, square, other_square, product = local
    numerator = (2 * mean * other_mean + _C1) * (2 * (product - mean * other_mean) + _C2)
    variances = (square - mean * mean) + (other_square - other_mean * other_mean)
    denominator = (mean * mean + other_mean * other_mean + _C1) * (variances + _C2)
    similarity: Tensor = (numerator / denominator).mean(dim=-1)
    return similarity


def _iou(first: Tensor, second: Tensor) -> Tensor:
    both, either = ((first & second).sum(dim=(2, 3)), (first | second).sum(dim=(2, 3)))
    return both.double() / either  # 0 / 0 is NaN: undefined


def _check(maps: Tensor, other: Tensor, foreground: Tensor, other_foreground: Tensor) -> None:
    check_maps(maps)
    if other.shape != maps.shape or not other.is_floating_point():
        raise ValueError(
            f"Expected argument `other` to be a float tensor {tuple(maps.shape)} as `maps`, but got {other.dtype} "
            f"{tuple(other.shape)}."
        )
    for name, mask in (("foreground", foreground), ("other_foreground", other_foreground)):
        if mask.shape != maps.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"Expected argument `{name}` to be a bool tensor {tuple(maps.shape)} as `maps`, but got {mask.dtype} "
                f"{tuple(mask.shape)}."
            )


class SaliencyDrift(PerParameterMetric):
    """Mean :func:`map_drift` over objects, with the values of each object kept.

    ``per_object()`` returns them, ``[N, 5, 3]``. ``compute()`` returns a dict of scalars: the 15 :data:`DRIFT_NAMES`,
    and ``pearson``, ``ssim`` and ``mask_iou``: the mean over objects of the mean of the object's defined box maps. An
    undefined value is left out of every mean; a mean of nothing is NaN.

    Args:
        **kwargs: see ``torchmetrics.Metric``.

    Example:
        >>> metric = SaliencyDrift()
        >>> maps = torch.rand(1, 5, 30, 30)
        >>> metric.update(maps, maps, maps > 0.5, maps > 0.5)
        >>> metric.compute()["pearson"]
        tensor(0.)
    """

    higher_is_better = False

    def __init__(self, **kwargs: Any) -> None:
        """See the class for the arguments."""
        super().__init__(MEASURES, **kwargs)

    def update(self, maps: Tensor, other: Tensor, foreground: Tensor, other_foreground: Tensor) -> None:
        """Add objects; see :func:`map_drift` for shapes and errors."""
        self._keep(map_drift(maps, other, foreground, other_foreground))
