"""Convolutions with their normalisation, as the linear maps that they are in eval mode, and their transposes.

Cotangents are stored as ``[N, h, w, C]`` here: a 1x1 convolution is then one matrix product over all of them.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from odsg_lightning.detectors.detectron2_names import Conv2d, FrozenBatchNorm2d
from odsg_lightning.detectors.engine.window import UnsupportedModelError

_FORWARDS = (nn.Conv2d.forward, Conv2d.forward)
_NORMS = (FrozenBatchNorm2d, nn.BatchNorm2d, nn.SyncBatchNorm)
_SMALL = 2**16
"""Numbers of a weight that is kept on a CPU: of a ResNet-50's in all 3 MB."""


class LinearConv:
    """A convolution and the normalisation behind it, without bias: what a cotangent sees of them.

    Weights are read when they are needed, and from then on kept on a GPU, and small ones on a CPU: there it takes
    longer to start operations on them than to carry a cotangent back. An engine serves one forward pass, and refuses
    weights that changed since.

    Args:
        module: a convolution of one group, with or without a frozen or eval-mode batch normalisation.
        kernel: side of its kernel; its padding must be half of that.
        name: what to call it in an error.

    Raises:
        UnsupportedModelError: it is something else.
    """

    def __init__(self, module: nn.Module, kernel: int, name: str) -> None:
        """See the class for the arguments."""
        if not isinstance(module, nn.Conv2d) or type(module).forward not in _FORWARDS:
            raise UnsupportedModelError(f"{name} is a {type(module).__name__}, not a plain convolution")
        strides = (2,) if kernel == 7 else (1, 2)
        built = (module.kernel_size, module.padding, module.dilation, module.groups, module.padding_mode)
        expected = ((kernel, kernel), (kernel // 2, kernel // 2), (1, 1), 1, "zeros")
        if built != expected or module.stride not in [(stride, stride) for stride in strides]:
            raise UnsupportedModelError(
                f"{name} has kernel {module.kernel_size}, stride {module.stride}, padding {module.padding}, dilation "
                f"{module.dilation} and {module.groups} groups, not a {kernel}x{kernel} kernel alone"
            )
        if getattr(module, "activation", None) is not None:
            raise UnsupportedModelError(f"{name} has an activation of its own")
        self._norm = getattr(module, "norm", None)
        if self._norm is not None:
            _check_norm(self._norm, name)
        self.module = module
        self.stride = int(module.stride[0])
        self._kept: dict[Callable[[Tensor], Tensor], Tensor] = {}

    def weight(self, dtype: torch.dtype, layout: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the weight with the scale of the normalisation folded in.

        Args:
            dtype: always the same.
            layout: what to make of ``[C_out, C_in, k, k]``.
        """
        if (kept := self._kept.get(layout)) is not None:
            return kept
        weight = layout(self._folded().to(dtype))
        if weight.is_cuda or weight.numel() <= _SMALL:
            self._kept[layout] = weight
        return weight

    def _folded(self) -> Tensor:
        weight: Tensor = self.module.weight.detach()
        if self._norm is not None:
            scale = (self._norm.running_var + self._norm.eps).rsqrt()
            if self._norm.weight is not None:
                scale = scale * self._norm.weight.detach()
            weight = weight * scale[:, None, None, None]
        return weight

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """Return the weight of a 1x1 convolution as ``[C_out, C_in]``: ``cotangent @ matrix`` is its transpose."""
        return self.weight(dtype, _as_matrix)


def _as_matrix(weight: Tensor) -> Tensor:
    return weight.flatten(1)


def _as_it_is(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=torch.channels_last) if weight.is_cuda else weight


def _transposed(weight: Tensor) -> Tensor:
    return weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)


def _four_phases(weight: Tensor) -> Tensor:
    """See :func:`transpose_7x7_stride_2`."""
    weight = F.pad(weight, (1, 0, 1, 0))  # now entry 2d + r + 4, of eight
    outputs, inputs = weight.shape[:2]
    phases = weight.view(outputs, inputs, 4, 2, 4, 2).flip(2, 4)  # [C_out, C_in, d, row phase, d, column phase]
    kernel = phases.permute(3, 5, 1, 0, 2, 4).reshape(4 * inputs, outputs, 4, 4)
    return kernel.contiguous(memory_format=torch.channels_last)


def _check_norm(norm: nn.Module, name: str) -> None:
    known = isinstance(norm, _NORMS) and norm.running_var is not None
    if not known or (norm.training and not isinstance(norm, FrozenBatchNorm2d)):
        raise UnsupportedModelError(
            f"{name} is followed by {type(norm).__name__}, not by a frozen or eval-mode batch norm"
        )


def transpose_3x3(conv: LinearConv, cotangent: Tensor) -> Tensor:
    """Carry ``[N, h, w, C_out]`` back through a 3x3 convolution of stride 1, to the same cells.

    What it would carry outside of them is dropped: the caller leaves a margin of one cell where that matters.
    """
    weight = conv.weight(cotangent.dtype, _transposed)
    return F.conv2d(cotangent.permute(0, 3, 1, 2), weight, padding=1).permute(0, 2, 3, 1)


def transpose_3x3_stride_2(conv: LinearConv, cotangent: Tensor) -> Tensor:
    """Carry ``[N, h, w, C_out]`` back through a 3x3 convolution of stride 2.

    Returns:
        ``[N, 2h + 1, 2w + 1, C_in]``; its first cell lies at ``2 * top - 1, 2 * left - 1``.
    """
    weight = conv.weight(cotangent.dtype, _as_it_is)
    return F.conv_transpose2d(cotangent.permute(0, 3, 1, 2), weight, stride=2).permute(0, 2, 3, 1)


def transpose_7x7_stride_2(conv: LinearConv, cotangent: Tensor) -> Tensor:
    """Carry ``[N, h, w, C_out]`` back through a 7x7 convolution of stride 2.

    As a 4x4 convolution to the four phases of the larger grid, which costs a third of a general transposed one: cell
    ``2u + r`` gathers the kernel's entries ``2d + r + 3`` from the cells ``u - d``, for d from -2 to 1.

    Returns:
        ``[N, C_in, 2h + 6, 2w + 6]``; its first cell lies at ``2 * top - 4, 2 * left - 4``.
    """
    kernel = conv.weight(cotangent.dtype, _four_phases)
    phases = F.conv2d(cotangent.permute(0, 3, 1, 2), kernel, padding=3).permute(0, 2, 3, 1)
    count, height, width, channels = phases.shape
    # torch.pixel_shuffle() took four times as long.
    cells = phases.reshape(count, height, width, 2, 2, channels // 4).permute(0, 5, 1, 3, 2, 4)
    return cells.reshape(count, channels // 4, 2 * height, 2 * width)
