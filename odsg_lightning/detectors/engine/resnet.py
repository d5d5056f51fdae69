"""Vector-Jacobian products through Detectron2's ResNet, on the cells that a cotangent reaches.

The cotangent of a detection is zero outside of a small window of the feature map. Going down the network the window
grows by a cell for each 3x3 convolution; what lies outside is neither stored nor computed, and the result is exact.
The network is piecewise linear: after the forward pass, all that is needed of it is where its ReLUs were open.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

from torch import Tensor, nn

from odsg_lightning.detectors.detectron2_names import BasicBlock, BottleneckBlock, ResNet
from odsg_lightning.detectors.engine.conv import LinearConv, transpose_3x3, transpose_3x3_stride_2
from odsg_lightning.detectors.engine.stem import TransposedStem
from odsg_lightning.detectors.engine.strided_window import Box, Records, Scratch, StridedWindow, clipped, summed
from odsg_lightning.detectors.engine.trimming import Trimmer
from odsg_lightning.detectors.engine.window import UnsupportedModelError, Window

_WASTE = 1.1
"""How much larger than needed a block's rectangle may be, so that a whole run of blocks works in one buffer."""


class TransposedResNet:
    """A ResNet of basic or bottleneck blocks, recorded in one forward pass.

    Args:
        resnet: the network.
        name: what to call it in an error.

    Raises:
        UnsupportedModelError: a part of it is not one of these; the message names the part.
    """

    def __init__(self, resnet: nn.Module, name: str) -> None:
        """See the class for the arguments."""
        if not isinstance(resnet, ResNet) or type(resnet).forward is not ResNet.forward:
            raise UnsupportedModelError(f"{name} is a {type(resnet).__name__}, not a ResNet")
        parts: Any = resnet
        self._scratch = Scratch()
        self._stem = TransposedStem(parts.stem, f"{name}.stem")
        self._stages = {
            stage_name: [_Block(block, f"{name}.{stage_name}.{index}") for index, block in enumerate(stage)]
            for stage_name, stage in zip(parts.stage_names, parts.stages, strict=True)
        }

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the next forward pass."""
        with ExitStack() as stack:
            blocks = [block for stage in self._stages.values() for block in stage]
            for handle in chain(self._stem.hooks(), *(block.hooks() for block in blocks)):
                stack.callback(handle.remove)
            yield

    def vjp(self, cotangents: Mapping[str, list[StridedWindow]], records: Records, trim: Trimmer) -> Window:
        """Carry cotangents of the stages' outputs (``"res4"``), each a sum of parts, back to the input."""
        parts: list[StridedWindow] = []
        for name, blocks in reversed(self._stages.items()):
            parts = parts + cotangents.get(name, [])
            if parts:
                parts = [_through_stage(blocks, parts, records, self._scratch, trim)]
        return self._stem.transposed(parts, records, self._scratch)


def _through_stage(
    blocks: "list[_Block]", parts: list[StridedWindow], records: Records, scratch: Scratch, trim: Trimmer
) -> StridedWindow:
    """Carry the cotangents of a stage's output, given as a sum of parts, back to its input."""
    reached = Box.around([part.box for part in parts])
    for index in reversed(range(len(blocks))):
        block = blocks[index]
        needed = reached.grown(block.margin, block.size)
        fits = len(parts) == 1 and parts[0].step == 1 and parts[0].values.is_contiguous()
        if fits and parts[0].box.holds(needed):
            total = parts[0]
        else:
            room = _room(reached, [earlier.margin for earlier in blocks[index::-1]], block.size)
            total = StridedWindow(summed(parts, room, scratch), room.top, room.left)
        whole = block.transposed(total, parts, records)
        parts = [trim(whole)]
        reached = needed if parts[0] is whole else parts[0].box
    return parts[0]


def _room(reached: Box, margins: list[int], size: tuple[int, int]) -> Box:
    """Return a rectangle for as many of the next blocks as it is not much too large for the first of them."""
    room = reached.grown(margins[0], size)
    enough = _WASTE * room.area
    for margin in margins[1:]:
        larger = room.grown(margin, size)
        if larger.area > enough:
            break
        room = larger
    return room


class _Block:
    """A basic or bottleneck block: convolutions with ReLUs between, plus a shortcut, and a ReLU on the sum."""

    def __init__(self, block: Any, name: str) -> None:
        forward = type(block).forward
        if forward is BottleneckBlock.forward:
            kernels = {"conv1": 1, "conv2": 3, "conv3": 1}
        elif forward is BasicBlock.forward:
            kernels = {"conv1": 3, "conv2": 3}
        else:
            raise UnsupportedModelError(f"{name} is a {type(block).__name__}, not a basic or bottleneck block")
        self._block = block
        self._convs = [LinearConv(getattr(block, conv), k, f"{name}.{conv}") for conv, k in kernels.items()]
        self._kernels = list(kernels.values())
        self._shortcut = None if block.shortcut is None else LinearConv(block.shortcut, 1, f"{name}.shortcut")
        self._open: dict[int, Tensor] = {}
        strided = [conv.stride for conv in self._convs if conv.stride > 1]
        behind_another = len(kernels) == 3 and self._convs[2].stride > 1
        if len(strided) > 1 or behind_another or (strided and self._shortcut is None):
            raise UnsupportedModelError(f"{name} has strides that are not a ResNet's")
        self.margin = sum(k // 2 for k, conv in zip(self._kernels, self._convs, strict=True) if conv.stride == 1)
        """By how many cells of its output a cotangent grows inside."""

    def hooks(self) -> Iterator[Any]:
        """Register the hooks that record where its ReLUs are open."""
        last = len(self._convs) - 1
        for index, conv in enumerate(self._convs[:-1]):
            yield conv.module.register_forward_hook(self._record(index))
        yield self._block.register_forward_hook(self._record(last))

    def _record(self, index: int) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self._open[index] = (output.detach() > 0).permute(0, 2, 3, 1).contiguous()

        return hook

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its output in cells."""
        height, width = self._open[len(self._convs) - 1].shape[1:3]
        return height, width

    def transposed(self, total: StridedWindow, parts: list[StridedWindow], records: Records) -> StridedWindow:
        """Carry a cotangent of its output back to its input.

        Args:
            total: the cotangent; its values are overwritten.
            parts: what it is the sum of, which tells where it is zero between its cells.
            records: of the images that its rows belong to.
        """
        dtype = total.values.dtype
        total = self._masked(total, len(self._convs) - 1, records)
        inner = self._inner(total, parts, records)
        conv = self._convs[0]
        if self._shortcut is None:
            if self._kernels[0] == 1:
                channels = total.values.shape[3]
                total.values.view(-1, channels).addmm_(inner.values.flatten(0, 2), conv.matrix(dtype))
            else:
                total.values.add_(transpose_3x3(conv, inner.values))
            return total
        outer = total.values @ self._shortcut.matrix(dtype)
        step = self._shortcut.stride
        if self._kernels[0] == 1 and conv.stride == step:
            outer.view(-1, outer.shape[3]).addmm_(inner.values.flatten(0, 2), conv.matrix(dtype))
            return StridedWindow(outer, step * total.top, step * total.left, step)
        through = [self._through(0, inner), StridedWindow(outer, step * total.top, step * total.left, step)]
        box = Box.around([part.box for part in through])
        return StridedWindow(summed(through, box), box.top, box.left)

    def _inner(self, total: StridedWindow, parts: list[StridedWindow], records: Records) -> StridedWindow:
        """Carry the masked cotangent of the output back to the output of the first convolution, on the same cells."""
        coarse = [part for part in parts if part.step > 1]
        dense = [part.box for part in parts if part.step == 1]
        around = Box.around(dense) if dense else Box(0, 0, 0, 0)
        if len(coarse) != 1 or 2 * around.area > total.box.area or any(conv.stride > 1 for conv in self._convs[1:]):
            return self._to_first(total, records)
        # Only every second cell holds anything, but where the pyramid adds its own: a quarter of the work.
        (part,) = coarse
        every_second = StridedWindow(part.within(total.box, total.values).clone(), part.top, part.left, part.step)
        pieces = [every_second]
        if dense:
            every_second.part(around).zero_()
            box = around.grown(1, self.size)
            pieces.append(
                StridedWindow(
                    summed([StridedWindow(total.part(around), around.top, around.left)], box), box.top, box.left
                )
            )
        return StridedWindow(
            summed([self._to_first(piece, records) for piece in pieces], total.box), total.top, total.left
        )

    def _to_first(self, cotangent: StridedWindow, records: Records) -> StridedWindow:
        for index in reversed(range(1, len(self._convs))):
            cotangent = self._masked(self._through(index, cotangent), index - 1, records)
        return cotangent

    def _through(self, index: int, cotangent: StridedWindow) -> StridedWindow:
        """Carry a cotangent back through one convolution."""
        conv, values, top, left = self._convs[index], cotangent.values, cotangent.top, cotangent.left
        if self._kernels[index] == 1:
            return StridedWindow(values @ conv.matrix(values.dtype), top, left, cotangent.step)
        if conv.stride == cotangent.step == 1:
            return StridedWindow(transpose_3x3(conv, values), top, left)
        # A gap between the cells and a stride of the convolution are the same thing for its transpose.
        finer = (conv.stride * self.size[0], conv.stride * self.size[1])
        return clipped(transpose_3x3_stride_2(conv, values), conv.stride * top - 1, conv.stride * left - 1, finer)

    def _masked(self, cotangent: StridedWindow, index: int, records: Records) -> StridedWindow:
        """Zero a cotangent, in place, where a ReLU was closed."""
        box, step = cotangent.box, cotangent.step
        is_open = records.of(self._open[index][:, box.top : box.bottom : step, box.left : box.right : step])
        # Converted once, not for each of the five numbers.
        records.by_image(cotangent.values).mul_(is_open.to(cotangent.values.dtype))
        return cotangent
