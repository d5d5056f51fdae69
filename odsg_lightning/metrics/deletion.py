"""Deletion and insertion as numbers: the areas under the curves of :mod:`odsg_lightning.occlusion.deletion`."""

from typing import Any

import torch
from torch import Tensor

from odsg_lightning.metrics.per_object import PerObjectMetric
from odsg_lightning.occlusion.deletion import CURVES


def deletion_area(curves: Tensor) -> Tensor:
    """Return the area under each deletion curve, divided by its value for the whole image: lower is better.

    Args:
        curves: ``[N, 3, steps + 1]`` of :func:`odsg_lightning.occlusion.deletion.deletion_curves`.

    Returns:
        ``[N, 3]`` by the trapezoidal rule over the share of the pixels, not negative; above 1 if more is detected
        without pixels than with them. NaN where the curve is undefined, or nothing is detected in the whole image.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> deletion_area(torch.tensor([0.8, 0.4, 0.0]).expand(1, 3, 3))  # falls evenly
        tensor([[0.5000, 0.5000, 0.5000]])
    """
    return _area(curves, whole=0)


def insertion_area(curves: Tensor) -> Tensor:
    """Return the area under each insertion curve, divided by its value for the whole image: higher is better.

    Args:
        curves: ``[N, 3, steps + 1]`` of :func:`odsg_lightning.occlusion.deletion.insertion_curves`.

    Returns:
        ``[N, 3]``, see :func:`deletion_area`.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> insertion_area(torch.tensor([0.0, 0.8, 0.8]).expand(1, 3, 3))  # half of the pixels are enough
        tensor([[0.7500, 0.7500, 0.7500]])
    """
    return _area(curves, whole=-1)


def _area(curves: Tensor, whole: int) -> Tensor:
    if curves.ndim != 3 or curves.shape[1] != len(CURVES) or curves.shape[2] < 2 or not curves.is_floating_point():
        raise ValueError(
            f"Expected argument `curves` to be a float tensor [N, {len(CURVES)}, steps + 1], but got {curves.dtype} "
            f"{tuple(curves.shape)}."
        )
    detected = curves[..., whole]
    area = torch.trapezoid(curves, dx=1 / (curves.shape[2] - 1)) / detected
    return area.where(detected > 0, torch.nan)


class _Area(PerObjectMetric):
    """Mean area over objects, with the values of each object kept."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__((len(CURVES),), **kwargs)

    def compute(self) -> dict[str, Tensor]:
        """Return the mean of each curve's area, as scalars."""
        return dict(zip(CURVES, self.per_object().nanmean(dim=0), strict=True))


class Deletion(_Area):
    """Mean :func:`deletion_area` over objects, with the values of each object kept.

    ``per_object()`` returns them, ``[N, 3]``. ``compute()`` returns a dict of scalars: ``score_iou``, ``score`` and
    ``iou``. An undefined value is left out; a mean of nothing is NaN.

    Args:
        **kwargs: see ``torchmetrics.Metric``.

    Example:
        >>> metric = Deletion()
        >>> metric.update(torch.tensor([0.8, 0.4, 0.0]).expand(1, 3, 3))
        >>> metric.compute()["score_iou"]
        tensor(0.5000)
    """

    higher_is_better = False

    def update(self, curves: Tensor) -> None:
        """Add objects; see :func:`deletion_area` for shapes and errors."""
        self._keep(deletion_area(curves))


class Insertion(_Area):
    """Mean :func:`insertion_area` over objects, with the values of each object kept.

    ``per_object()`` returns them, ``[N, 3]``. ``compute()`` returns a dict of scalars: ``score_iou``, ``score`` and
    ``iou``. An undefined value is left out; a mean of nothing is NaN.

    Args:
        **kwargs: see ``torchmetrics.Metric``.

    Example:
        >>> metric = Insertion()
        >>> metric.update(torch.tensor([0.0, 0.8, 0.8]).expand(1, 3, 3))
        >>> metric.compute()["score_iou"]
        tensor(0.7500)
    """

    higher_is_better = True

    def update(self, curves: Tensor) -> None:
        """Add objects; see :func:`insertion_area` for shapes and errors."""
        self._keep(insertion_area(curves))
