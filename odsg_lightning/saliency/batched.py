"""The gradients of many numbers by one image, several in each backward pass."""

import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from odsg_lightning.saliency.memory import free_memory, out_of_memory

_MOST_ON_CPU, _MOST = 10, 100
"""Cotangents of one pass. More than ten gain nothing on a CPU, where larger maps leave the caches."""


class BatchedGradients:
    """Backward passes with several cotangents each (``is_grads_batched``), which a CPU or a GPU serves better.

    The numbers equal those of one pass for each up to rounding. Where an operator cannot take several cotangents, a
    warning says so and each has a pass of its own.

    Args:
        image: a leaf that requires a gradient.
        graph_bytes: memory that the graph takes on a GPU; the maps of one cotangent take no more.
        limit: most cotangents of one pass; None for as many as pay and as memory allows.

    Example:
        >>> image = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> gradients = BatchedGradients(image)([image.sum(), image.square().sum()])
        >>> [gradient.tolist() for gradient in gradients]
        [[1.0, 1.0, 1.0], [2.0, 4.0, 6.0]]
    """

    def __init__(self, image: Tensor, graph_bytes: int = 0, limit: int | None = None) -> None:
        """See the class for the arguments."""
        self._image = image
        if limit is None and image.is_cuda:
            limit = max(1, min(_MOST, free_memory(image.device) // max(1, graph_bytes)))
        self.limit = limit or _MOST_ON_CPU

    def __call__(self, outputs: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the gradient of each number, each a tensor without dimensions that requires a gradient."""
        start = 0
        while start < len(outputs):
            part = outputs[start : start + self.limit]
            try:
                gradients = self._together(part)
            except RuntimeError as error:
                if len(part) == 1:
                    raise
                self.limit = len(part) // 2
                if not out_of_memory(error):
                    self.limit = 1
                    warnings.warn(
                        "engine='batched' goes on with one backward pass for each number, as engine='autograd': "
                        f"several at once raised {type(error).__name__}: {str(error).splitlines()[0]}",
                        RuntimeWarning,
                        stacklevel=2,
                    )
                continue  # when the traceback has let go of what the pass had allocated
            yield from gradients
            start += len(part)

    def _together(self, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        if len(outputs) == 1:
            return torch.autograd.grad(outputs[0], self._image, retain_graph=True, materialize_grads=True)
        with torch.inference_mode(False), torch.enable_grad():  # stacking the numbers is part of the graph
            stacked = torch.stack(tuple(outputs))
        cotangents = torch.eye(len(outputs), dtype=stacked.dtype, device=stacked.device)
        (gradients,) = torch.autograd.grad(
            stacked, self._image, cotangents, retain_graph=True, is_grads_batched=True, materialize_grads=True
        )
        return gradients.unbind()
