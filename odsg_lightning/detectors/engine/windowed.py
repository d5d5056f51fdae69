"""The windowed engine: vector-Jacobian products through a ResNet-FPN, on the cells that a cotangent reaches."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from odsg_lightning.detectors.detectron2_names import FPN, LastLevelMaxPool, LastLevelP6P7
from odsg_lightning.detectors.engine.conv import LinearConv, transpose_3x3, transpose_3x3_stride_2
from odsg_lightning.detectors.engine.resnet import TransposedResNet
from odsg_lightning.detectors.engine.strided_window import Box, Records, StridedWindow, clipped, summed
from odsg_lightning.detectors.engine.trimming import Trimmer
from odsg_lightning.detectors.engine.window import UnsupportedModelError, Window


class WindowedBackbone:
    """A feature pyramid on a ResNet; see :class:`odsg_lightning.detectors.engine.backbone.BackboneEngine`.

    Args:
        backbone: Detectron2's FPN on its ResNet (basic or bottleneck blocks, frozen or eval-mode batch norm).
        dtype: of the backward pass; ``torch.bfloat16`` is approximate. By default that of the features.
        trim: share of a cotangent's mass that may be left out at every block of the ResNet; 0 is exact. In the pyramid
            nothing is: its windows are small, and there was no operation to be saved.

    Raises:
        UnsupportedModelError: a part of it is of another kind; the message names the part.
    """

    def __init__(self, backbone: nn.Module, dtype: torch.dtype | None = None, trim: float = 0.0) -> None:
        """See the class for the arguments."""
        if type(backbone).forward is not FPN.forward:
            raise UnsupportedModelError(f"backbone is a {type(backbone).__name__}, not an FPN")
        fpn: Any = backbone
        self._fpn = backbone
        self._dtype = dtype
        self._trim = trim
        self._resnet = TransposedResNet(fpn.bottom_up, "backbone.bottom_up")
        self._stages = list(fpn.in_features)  # fine to coarse, as everything here
        self._levels = list(fpn._out_features)[: len(self._stages)]
        self._top_levels = list(fpn._out_features)[len(self._stages) :]
        self._laterals = _convs(fpn.lateral_convs, 1, "backbone.lateral_convs")
        self._outputs = _convs(fpn.output_convs, 3, "backbone.output_convs")
        self._fuse = 0.5 if fpn._fuse_type == "avg" else 1.0
        self._top = None if fpn.top_block is None else _TopBlock(fpn.top_block)
        if self._top is not None and self._top.reads not in (self._stages[-1], self._levels[-1]):
            raise UnsupportedModelError(f"backbone.top_block reads {self._top.reads}, not the coarsest level")
        self._sizes: dict[str, tuple[int, int]] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the backbone's next forward pass, which is run without a graph."""
        mode = torch.is_grad_enabled()

        def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            torch.set_grad_enabled(False)
            # On a CPU max-pooling alone is fifteen times faster so, and nothing is slower.
            return tuple(image.contiguous(memory_format=torch.channels_last) for image in inputs)

        def after(module: nn.Module, inputs: tuple[Tensor, ...], features: dict[str, Tensor]) -> None:
            torch.set_grad_enabled(mode)
            self._sizes = {name: (int(feature.shape[2]), int(feature.shape[3])) for name, feature in features.items()}
            if self._top is not None:
                self._top.record(features[self._top_levels[0]])

        handles = [self._fpn.register_forward_pre_hook(before), self._fpn.register_forward_hook(after)]
        try:
            with self._resnet.recording():
                yield
        finally:
            torch.set_grad_enabled(mode)
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def vjp(self, cotangents: Mapping[str, Window]) -> Window:
        """Carry cotangents of the features back to the backbone's input; see the protocol."""
        if not self._sizes:
            raise RuntimeError("Expected a recorded forward pass of the backbone, but there was none.")
        given = next(iter(cotangents.values()))
        records = Records(given.images)
        windows = {name: _channels_last(window, self._dtype) for name, window in cotangents.items()}
        outputs = {level: [windows[level]] for level in self._levels if level in windows}
        stages: dict[str, list[StridedWindow]] = {}
        if any(level in windows for level in self._top_levels):
            assert self._top is not None
            of_levels = [windows.get(level) for level in self._top_levels]
            through = self._top.transposed(of_levels, self._top_sizes(), records)
            target = stages if self._top.reads == self._stages[-1] else outputs
            target.setdefault(self._top.reads, []).append(through)
        # Of the sum of lateral and coarser maps, from the finest level to the coarsest.
        inner: StridedWindow | None = None
        for index, level in enumerate(self._levels):
            parts = [] if inner is None else [_upsampling_transposed(inner)]
            if level in outputs:
                box = Box.around([part.box for part in outputs[level]]).grown(1, self._sizes[level])
                values = transpose_3x3(self._outputs[index], summed(outputs[level], box))
                parts.append(StridedWindow(values, box.top, box.left))
            if parts:
                box = Box.around([part.box for part in parts])
                values = summed(parts, box) * (self._fuse if index + 1 < len(self._levels) else 1.0)
                inner = StridedWindow(values, box.top, box.left)
                lateral = StridedWindow(values @ self._laterals[index].matrix(values.dtype), box.top, box.left)
                stages.setdefault(self._stages[index], []).append(lateral)
        trim = Trimmer(self._trim)
        image = self._resnet.vjp(stages, records, trim)
        return Window(image.values.to(given.values.dtype), image.top, image.left, given.images, trim.dropped)

    def _top_sizes(self) -> list[tuple[int, int]]:
        """Return the sizes of what the top block reads and of its levels."""
        return [self._sizes[level] for level in (self._levels[-1], *self._top_levels)]


class _TopBlock:
    """What makes the coarsest levels: max-pooling of one cell and stride 2, or two 3x3 convolutions of stride 2."""

    def __init__(self, block: Any) -> None:
        name = "backbone.top_block"
        self._convs: list[LinearConv] = []
        if type(block).forward is LastLevelP6P7.forward:
            self._convs = [LinearConv(block.p6, 3, f"{name}.p6"), LinearConv(block.p7, 3, f"{name}.p7")]
        elif type(block).forward is not LastLevelMaxPool.forward:
            raise UnsupportedModelError(f"{name} is a {type(block).__name__}, not LastLevelP6P7 or LastLevelMaxPool")
        if any(conv.stride != 2 for conv in self._convs):
            raise UnsupportedModelError(f"{name} has a stride other than 2")
        self.reads: str = block.in_feature

    def record(self, p6: Tensor) -> None:
        """Keep where the ReLU between the two convolutions is open."""
        self._open = (p6.detach() > 0).permute(0, 2, 3, 1).contiguous()

    def transposed(
        self, levels: list[StridedWindow | None], sizes: list[tuple[int, int]], records: Records
    ) -> StridedWindow:
        """Carry cotangents of its levels back to what it reads; ``sizes`` are those of that and of the levels."""
        p6 = levels[0]
        if not self._convs:
            assert p6 is not None
            return StridedWindow(p6.values, 2 * p6.top, 2 * p6.left, 2)
        parts = [] if p6 is None else [p6]
        if levels[1] is not None:
            p7 = levels[1]
            part = clipped(transpose_3x3_stride_2(self._convs[1], p7.values), 2 * p7.top - 1, 2 * p7.left - 1, sizes[1])
            box = part.box
            is_open = self._open[:, box.top : box.bottom, box.left : box.right]
            records.by_image(part.values).mul_(records.of(is_open))
            parts.append(part)
        box = Box.around([part.box for part in parts])
        values = transpose_3x3_stride_2(self._convs[0], summed(parts, box))
        return clipped(values, 2 * box.top - 1, 2 * box.left - 1, sizes[0])


def _convs(modules: Iterable[nn.Module], kernel: int, name: str) -> list[LinearConv]:
    """Return the pyramid's convolutions fine to coarse; Detectron2 keeps them from coarse to fine."""
    return [LinearConv(conv, kernel, f"{name}.{index}") for index, conv in enumerate(modules)][::-1]


def _channels_last(window: Window, dtype: torch.dtype | None) -> StridedWindow:
    values = window.values.detach().permute(0, 2, 3, 1)
    return StridedWindow(values.to(dtype or values.dtype).contiguous(), window.top, window.left)


def _upsampling_transposed(cotangent: StridedWindow) -> StridedWindow:
    """Carry a cotangent back through nearest-neighbour upsampling by 2: sum over each 2x2 cells."""
    box = cotangent.box
    even = (box.left % 2, box.right % 2, box.top % 2, box.bottom % 2)
    values = F.pad(cotangent.values, (0, 0, *even))
    count, height, width, channels = values.shape
    values = values.view(count, height // 2, 2, width // 2, 2, channels).sum((2, 4))
    return StridedWindow(values, box.top // 2, box.left // 2)
