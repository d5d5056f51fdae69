"""What the metrics of this package have in common: the values of every object are kept."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from odsg_lightning.names import PARAMETERS


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


def check_maps_and_masks(maps: Tensor, masks: Tensor) -> None:
    """Refuse maps that are not float ``[N, 5, H, W]``, and masks that are not bool ``[N, H, W]``.

    Raises:
        ValueError: says what came.
    """
    if maps.ndim != 4 or maps.shape[1] != len(PARAMETERS) or not maps.is_floating_point():
        raise ValueError(
            f"Expected argument `maps` to be a float tensor [N, 5, H, W], but got {maps.dtype} {tuple(maps.shape)}."
        )
    expected = (maps.shape[0], *maps.shape[2:])
    if masks.dtype != torch.bool or masks.shape != expected:
        raise ValueError(
            f"Expected argument `masks` to be a bool tensor {expected}, but got {masks.dtype} {tuple(masks.shape)}."
        )
