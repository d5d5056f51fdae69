"""A model's forward pass whose graph goes through what the model detaches."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from odsg_lightning.saliency.batch_norm import RightBatchNorm


class WholeGraph(RightBatchNorm):
    """While it is entered, what this thread computes has a graph that is right, and whole if that is asked for.

    Args:
        through_refinement: let gradients through ``detach()``, too. A decoder that refines its boxes layer by layer
            detaches them in between, which stabilises training; the gradients then are those of the last refinement
            alone, not of what the detector returned.

    Example:
        >>> pixel = torch.tensor(3.0, requires_grad=True)
        >>> with WholeGraph(through_refinement=True):
        ...     box = pixel.square().detach() + pixel
        >>> torch.autograd.grad(box, pixel)
        (tensor(7.),)
    """

    def __init__(self, *, through_refinement: bool = False) -> None:
        """See the class for the arguments."""
        super().__init__()
        self._through_refinement = through_refinement

    def _call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if self._through_refinement and func in (Tensor.detach, torch.detach):
            return args[0]
        return super()._call(func, args, kwargs)
