"""Vector-Jacobian products through the stem of Detectron2's ResNet, on the cells that a cotangent reaches."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from odsg_lightning.detectors.detectron2_names import BasicStem
from odsg_lightning.detectors.engine.conv import LinearConv, transpose_7x7_stride_2
from odsg_lightning.detectors.engine.strided_window import Box, Records, Scratch, StridedWindow, clipped, summed
from odsg_lightning.detectors.engine.window import UnsupportedModelError, Window


class TransposedStem:
    """The 7x7 convolution of stride 2, ReLU and 3x3 max-pooling of stride 2, recorded in one forward pass.

    Args:
        stem: Detectron2's ``BasicStem``.
        name: what to call it in an error.

    Raises:
        UnsupportedModelError: it is something else.
    """

    def __init__(self, stem: Any, name: str) -> None:
        """See the class for the arguments."""
        if type(stem).forward is not BasicStem.forward:
            raise UnsupportedModelError(f"{name} is a {type(stem).__name__}, not a plain ResNet stem")
        self._module = stem
        self._conv = LinearConv(stem.conv1, 7, f"{name}.conv1")

    def hooks(self) -> Iterator[Any]:
        """Register the hooks that record which cell each maximum came from."""

        def keep_convolved(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self._image_size = (int(inputs[0].shape[2]), int(inputs[0].shape[3]))
            self._convolved = output  # the ReLU works on it in place

        def keep_maxima(module: nn.Module, inputs: Any, output: Tensor) -> None:
            convolved = self._convolved.detach()
            del self._convolved
            self._size = (int(convolved.shape[2]), int(convolved.shape[3]))
            values, indices = F.max_pool2d(convolved, 3, stride=2, padding=1, return_indices=True)
            self._open = (values > 0).permute(0, 2, 3, 1).contiguous()
            indices = indices.permute(0, 2, 3, 1).int().contiguous()
            self._rows, self._columns = indices // self._size[1], indices % self._size[1]

        yield self._conv.module.register_forward_hook(keep_convolved)
        yield self._module.register_forward_hook(keep_maxima)

    def transposed(self, parts: list[StridedWindow], records: Records, scratch: Scratch) -> Window:
        """Carry the sum of cotangents of its output back to the image."""
        box = Box.around([part.box for part in parts])
        total = summed(parts, box, scratch)
        here = slice(None), slice(box.top, box.bottom), slice(box.left, box.right)
        records.by_image(total).mul_(records.of(self._open[here]).to(total.dtype))
        count, channels = total.shape[0], total.shape[3]
        pooled = Box(2 * box.top - 1, 2 * box.left - 1, 2 * box.bottom, 2 * box.right).clipped(self._size)
        width = pooled.right - pooled.left
        rows, columns = records.of(self._rows[here]).long(), records.of(self._columns[here])
        cells = (rows - pooled.top) * width + (columns - pooled.left)
        targets = (cells * channels + torch.arange(channels, device=cells.device)).flatten(2)
        convolved = scratch.zeros((count, pooled.area * channels), total)
        values = records.by_image(total.flatten(1))
        records.by_image(convolved).scatter_add_(2, targets.expand_as(values), values)
        convolved = convolved.view(count, pooled.bottom - pooled.top, width, channels)
        image = transpose_7x7_stride_2(self._conv, convolved)
        window = clipped(image.permute(0, 2, 3, 1), 2 * pooled.top - 4, 2 * pooled.left - 4, self._image_size)
        return Window(window.values.permute(0, 3, 1, 2), window.top, window.left)
