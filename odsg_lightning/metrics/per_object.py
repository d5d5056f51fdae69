"""What the metrics of this package have in common: the values of every object are kept."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from odsg_lightning.names import BOX_PARAMETERS, PARAMETERS
from odsg_lightning.saliency.masks import defined_maps


class PerObjectMetric(Metric):
    """A metric that keeps one array of values for each object, NaN where a value is undefined.

    Args:
        shape: of one object's values.
        **kwargs: see ``torchmetrics.Metric``.
    """

    is_differentiable = False
    full_state_update = False
    flat_values: list[Tensor]

    def __init__(self, shape: tuple[int, ...], **kwargs: Any) -> None:
        """See the class for the arguments."""
        super().__init__(**kwargs)
        self._shape = shape
        # One-dimensional, because processes with uneven shares gather such a state safely.
        self.add_state("flat_values", default=[], dist_reduce_fx="cat")

    def per_object(self) -> Tensor:
        """Return the values of each object, ``[N, *shape]``.

        Inside ``compute`` they are those of all processes, elsewhere those of this one.
        """
        states = self.flat_values
        flat = dim_zero_cat(states) if len(states) else torch.zeros(0, device=self.device)
        return flat.reshape(-1, *self._shape)

    def _keep(self, values: Tensor) -> None:
        """Add the values of some objects, ``[N, *shape]``."""
        self.flat_values.append(values.flatten().to(self.device))


class PerParameterMetric(PerObjectMetric):
    """A metric of some measures of each of an object's five maps; ``per_object()`` returns ``[N, 5, measures]``.

    Args:
        measures: their names.
        **kwargs: see ``torchmetrics.Metric``.
    """

    def __init__(self, measures: Sequence[str], **kwargs: Any) -> None:
        """See the class for the arguments."""
        super().__init__((len(PARAMETERS), len(measures)), **kwargs)
        self._measures = tuple(measures)

    def compute(self) -> dict[str, Tensor]:
        """Return the means, as scalars: see :func:`parameter_means`."""
        return parameter_means(self.per_object(), self._measures)


def parameter_means(values: Tensor, measures: Sequence[str]) -> dict[str, Tensor]:
    """Return the mean over objects of each ``parameter/measure``, and of each measure over the box maps.

    The second is the mean over objects of the mean of the object's defined box maps.

    Args:
        values: ``[N, 5, measures]``. Undefined values (NaN) are left out; a mean of nothing is NaN.
        measures: names of the last axis.
    """
    names = [f"{parameter}/{measure}" for parameter in PARAMETERS for measure in measures]
    means = dict(zip(names, values.nanmean(dim=0).flatten(), strict=True))
    boxes = values[:, : len(BOX_PARAMETERS)].nanmean(dim=1).nanmean(dim=0)
    return means | dict(zip(measures, boxes, strict=True))


def where_defined(values: Tensor, maps: Tensor) -> Tensor:
    """Return values ``[N, 5, ...]`` in the precision of maps ``[N, 5, H, W]``, float32 at least.

    NaN where a map is undefined.
    """
    defined = defined_maps(maps).reshape(*maps.shape[:2], *[1] * (values.ndim - 2))
    return values.to(torch.promote_types(maps.dtype, torch.float32)).where(defined, torch.nan)


def check_maps(maps: Tensor) -> None:
    """Refuse maps that are not float ``[N, 5, H, W]``.

    Raises:
        ValueError: says what came.
    """
    if maps.ndim != 4 or maps.shape[1] != len(PARAMETERS) or not maps.is_floating_point():
        raise ValueError(
            f"Expected argument `maps` to be a float tensor [N, 5, H, W], but got {maps.dtype} {tuple(maps.shape)}."
        )


def check_maps_and_masks(maps: Tensor, masks: Tensor) -> None:
    """Refuse maps that are not float ``[N, 5, H, W]``, and masks that are not bool ``[N, H, W]``.

    Raises:
        ValueError: says what came.
    """
    check_maps(maps)
    expected = (maps.shape[0], *maps.shape[2:])
    if masks.dtype != torch.bool or masks.shape != expected:
        raise ValueError(
            f"Expected argument `masks` to be a bool tensor {expected}, but got {masks.dtype} {tuple(masks.shape)}."
        )


def check_not_empty(masks: Tensor) -> None:
    """Refuse masks ``[N, H, W]`` without a pixel.

    Raises:
        ValueError: there is one.
    """
    if not bool(masks.flatten(1).any(dim=1).all()):
        raise ValueError("Expected masks with at least one pixel each, but got an empty one.")


def check_maps_and_boxes(maps: Tensor, boxes: Tensor) -> None:
    """Refuse maps that are not float ``[N, 5, H, W]``, and boxes that are not float ``[N, 4]``, corners in order.

    Raises:
        ValueError: says what came.
    """
    check_maps(maps)
    if boxes.shape != (len(maps), 4) or not boxes.is_floating_point():
        raise ValueError(
            f"Expected argument `boxes` to be a float tensor {(len(maps), 4)}, but got {boxes.dtype} "
            f"{tuple(boxes.shape)}."
        )
    check_corners(boxes)


def check_corners(boxes: Tensor) -> None:
    """Refuse boxes ``[N, 4]`` whose second corner is not to the right of and below the first.

    Raises:
        ValueError: shows the first of them.
    """
    wrong = ~(boxes[:, 2:] > boxes[:, :2]).all(dim=1)  # NaN is none
    if bool(wrong.any()):
        raise ValueError(
            "Expected boxes x_min, y_min, x_max, y_max with x_min < x_max and y_min < y_max, but got "
            f"{boxes[wrong][0].tolist()}."
        )
