"""What the metrics of this package have in common: the values of every object are kept."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


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
