"""Right gradients of batch normalisation, in spite of a fault of PyTorch."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class RightBatchNorm(TorchFunctionMode):
    """While it is entered, batch normalisation that this thread computes has a graph with the right gradients.

    On a CPU, PyTorch's batch normalisation in eval mode has wrong ones for a batch of one image if its input or its
    cotangent lies in memory channels last but has the batch stride of another tensor, as where a DETR-like model makes
    tokens of its feature map or a map of its tokens (seen in PyTorch 2.12.1; as large as the gradients themselves).
    Here both are copied first.

    Example:
        >>> tokens = torch.ones(1, 6, 3, requires_grad=True)
        >>> with RightBatchNorm():
        ...     output = torch.nn.BatchNorm2d(3, eps=0).eval()(tokens.transpose(1, 2).view(1, 3, 2, 3))
        >>> torch.autograd.grad(output.sum(), tokens)[0].unique()
        tensor([1.])
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Stand in for a function of PyTorch."""
        return self._call(func, args, kwargs or {})

    def _call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if func is not functional.batch_norm or not torch.is_grad_enabled() or args[0].device.type != "cpu":
            return func(*args, **kwargs)
        result = func(_in_order(args[0]), *args[1:], **kwargs)
        if result.requires_grad:
            result.register_hook(_in_order)
        return result


def _in_order(tensor: Tensor) -> Tensor:
    return tensor.contiguous() if len(tensor) == 1 and tensor.stride(0) != tensor.numel() else tensor
