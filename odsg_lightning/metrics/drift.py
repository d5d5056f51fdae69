"""Drift: how far an object's saliency maps have moved between two audits.

Three measures that see a change of dense maps (cosine similarity and divergences hardly do); 1 is "the same".
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from odsg_lightning.names import BOX_PARAMETERS, PARAMETERS

MEASURES = ("pearson", "ssim", "mask_iou")

DRIFT_NAMES = tuple(f"{parameter}/{measure}" for parameter in PARAMETERS for measure in MEASURES)
"""The 15 values of each object."""

SSIM_WINDOW = 11
"""Side of the Gaussian window of SSIM, in pixels."""

_SSIM_SIGMA, _C1, _C2 = 1.5, 0.01**2, 0.03**2  # Wang et al., for values from 0 to 1


def map_drift(maps: Tensor, other: Tensor, foreground: Tensor, other_foreground: Tensor) -> Tensor:
    r"""Compare the maps of each object with its maps of another audit.

    - ``pearson``: correlation of the pixels, -1 to 1; undefined for a map that is the same everywhere;
    - ``ssim``: mean structural similarity (Wang et al. 2004, Gaussian window of 11 px with a standard deviation of
      1.5 px), -1 to 1, of the maps divided by their maxima; over the windows that lie inside the map, so undefined for
      maps with a side below 11 px;
    - ``mask_iou``: :math:`|S \cap S'| / |S \cup S'|` of the foregrounds, 0 to 1.

    Args:
        maps: ``[N, 5, H, W]``, not negative; a map that is zero everywhere or not finite is undefined.
        other: ``[N, 5, H, W]`` the other audit's maps of the same objects.
        foreground: ``[N, 5, H, W]`` bool, the binarised ``maps``.
        other_foreground: ``[N, 5, H, W]`` bool, the binarised ``other``.

    Returns:
        ``[N, 5, 3]`` in the order of :data:`MEASURES`, NaN where either map is undefined; in the maps' own precision,
        float32 at least. Equal maps give exactly 1.

    Raises:
        ValueError: shapes or types that do not fit.
    """
    _check(maps, other, foreground, other_foreground)
    dtype = torch.promote_types(torch.promote_types(maps.dtype, other.dtype), torch.float32)
    first, second = _shares(maps.to(dtype)), _shares(other.to(dtype))
    values = torch.stack([_pearson(first, second), _ssim(first, second), _iou(foreground, other_foreground)], dim=-1)
    defined = first.flatten(2).isfinite().all(dim=2) & second.flatten(2).isfinite().all(dim=2)
    return values.to(dtype).where(defined[..., None], torch.nan)


def drift_means(values: Tensor) -> dict[str, Tensor]:
    """Return the mean of each of :data:`DRIFT_NAMES`, and of each measure over the box maps.

    Args:
        values: ``[N, 5, 3]``, see :func:`map_drift`. Undefined values are left out; a mean of nothing is NaN.
    """
    means = dict(zip(DRIFT_NAMES, values.nanmean(dim=0).flatten(), strict=True))
    boxes = values[:, : len(BOX_PARAMETERS)].nanmean(dim=1).nanmean(dim=0)
    return means | dict(zip(MEASURES, boxes, strict=True))


def _shares(maps: Tensor) -> Tensor:
    """Divide each map by its maximum; what is undefined becomes NaN somewhere."""
    return maps / maps.amax(dim=(2, 3), keepdim=True)


def _pearson(first: Tensor, second: Tensor) -> Tensor:
    """Half the squared distance of two vectors of length 1 is 1 less their correlation; it is 0 for equal maps."""
    return 1 - (_directions(first) - _directions(second)).square().sum(dim=2) / 2


def _directions(maps: Tensor) -> Tensor:
    centred = maps.flatten(2) - maps.flatten(2).mean(dim=2, keepdim=True)
    length: Tensor = centred.norm(dim=2, keepdim=True)
    return centred / length


def _ssim(first: Tensor, second: Tensor) -> Tensor:
    """By rows, then by columns: two to six times as fast as the two-dimensional filter of torchmetrics."""
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
    if maps.ndim != 4 or maps.shape[1] != len(PARAMETERS) or not maps.is_floating_point():
        raise ValueError(
            f"Expected argument `maps` to be a float tensor [N, 5, H, W], but got {maps.dtype} {tuple(maps.shape)}."
        )
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


class SaliencyDrift(Metric):
    """Mean :func:`map_drift` over objects, with the values of each object kept.

    ``compute()`` returns a dict of scalars: the 15 :data:`DRIFT_NAMES`, and ``pearson``, ``ssim`` and ``mask_iou``: the
    mean over objects of the mean of the object's defined box maps. An undefined value is left out of every mean; a mean
    of nothing is NaN.

    Args:
        **kwargs: see ``torchmetrics.Metric``.

    Example:
        >>> metric = SaliencyDrift()
        >>> maps = torch.rand(1, 5, 30, 30)
        >>> metric.update(maps, maps, maps > 0.5, maps > 0.5)
        >>> metric.compute()["ssim"]
        tensor(1.)
    """

    is_differentiable = False
    higher_is_better = None  # a map that stays as it is may be right or wrong
    full_state_update = False
    flat_values: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401
        """See the class for the arguments."""
        super().__init__(**kwargs)
        # One-dimensional, because processes with uneven shares gather such a state safely.
        self.add_state("flat_values", default=[], dist_reduce_fx="cat")

    def update(self, maps: Tensor, other: Tensor, foreground: Tensor, other_foreground: Tensor) -> None:
        """Add objects; see :func:`map_drift` for shapes and errors."""
        self.flat_values.append(map_drift(maps, other, foreground, other_foreground).flatten().to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """Return the mean of every name, as scalars."""
        return drift_means(self.per_object())

    def per_object(self) -> Tensor:
        """Return the values of each object, ``[N, 5, 3]``.

        Inside ``compute`` they are those of all processes, elsewhere those of this one.
        """
        states = self.flat_values
        flat = dim_zero_cat(states) if len(states) else torch.zeros(0, device=self.device)
        return flat.reshape(-1, len(PARAMETERS), len(MEASURES))
