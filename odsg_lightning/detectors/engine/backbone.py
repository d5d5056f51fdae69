"""Vector-Jacobian products through a backbone."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from odsg_lightning.detectors.engine.window import UnsupportedModelError, Window


class BackboneEngine(Protocol):
    """One run of a backbone on one image or more, and the vector-Jacobian products (VJPs) through it."""

    def recording(self) -> AbstractContextManager[None]:
        """Record the backbone's next forward pass.

        The features it returns inside are detached. Nothing stays on the backbone afterwards.
        """
        ...

    def vjp(self, cotangents: Mapping[str, Window]) -> Window:
        """Carry cotangents of the features back to the backbone's input.

        Args:
            cotangents: by the name of the feature (``"p4"``); all with the same number N of cotangents.

        Returns:
            ``[N, 3, h, w]`` on a window of the backbone's input (normalised and padded as the detector does it).

        Several images at once are for the windowed engine alone.
        """
        ...


class AutogradBackbone:
    """Autograd through the whole backbone: exact for every backbone.

    Args:
        backbone: any module that maps an image ``[1, 3, H, W]`` to a dictionary of features.
        batched: carry all cotangents of a call in one backward pass. By default on CUDA, where a pass for one is bound
            by the launches of its kernels; a CPU gains nothing from it and would need more memory.
    """

    def __init__(self, backbone: nn.Module, batched: bool | None = None) -> None:
        """See the class for the arguments."""
        self._backbone = backbone
        self._batched = batched
        self._input: Tensor | None = None
        self._features: dict[str, Tensor] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """See :class:`BackboneEngine`.

        Raises:
            UnsupportedModelError: the backbone takes or returns something else than Detectron2's do.
        """
        mode = torch.is_grad_enabled()

        def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
            if len(args) != 1 or not isinstance(args[0], Tensor):
                raise UnsupportedModelError("the backbone is not called with one tensor")
            self._input = in_quick_layout(args[0].detach()).requires_grad_()
            torch.set_grad_enabled(True)
            return (self._input,)

        def after(module: nn.Module, args: tuple[Any, ...], output: object) -> dict[str, Tensor]:
            torch.set_grad_enabled(mode)
            if not isinstance(output, dict) or not all(isinstance(feature, Tensor) for feature in output.values()):
                raise UnsupportedModelError("the backbone does not return a dictionary of tensors")
            self._features = dict(output)
            return {name: feature.detach() for name, feature in output.items()}

        handles = [self._backbone.register_forward_pre_hook(before), self._backbone.register_forward_hook(after)]
        try:
            yield
        finally:
            torch.set_grad_enabled(mode)
            for handle in handles:
                handle.remove()

    def vjp(self, cotangents: Mapping[str, Window]) -> Window:
        """See :class:`BackboneEngine`."""
        if self._input is None:
            raise RuntimeError("Expected a recorded forward pass of the backbone, but there was none.")
        batched = self._input.is_cuda if self._batched is None else self._batched
        outputs = [self._features[name] for name in cotangents]
        gradient = vjp_each(outputs, self._input, list(cotangents.values()), batched)
        return Window(gradient)


def in_quick_layout(maps: Tensor) -> Tensor:
    """Return maps ``[N, C, H, W]`` channels last on a GPU: what cuDNN takes for others is at times far slower.

    On an H100, a 3x3 convolution of five maps in single precision took 245 ms, and one of a single map 0.65 ms.
    """
    return maps.contiguous(memory_format=torch.channels_last) if maps.is_cuda else maps


def vjp_each(outputs: Sequence[Tensor], leaf: Tensor, cotangents: Sequence[Window], batched: bool) -> Tensor:
    """Carry the cotangents of n images back to a leaf, N / n of each.

    Args:
        outputs: each ``[n, C, H, W]``, with a graph, which stays.
        leaf: ``[n, C', H', W']``.
        cotangents: of each output, N of them on a window, image by image.
        batched: whether to take all of an image in one backward pass (``vmap``) where the operators allow it.

    Returns:
        ``[N, C', H', W']``, image by image.
    """
    of_each = cotangents[0].values.shape[0] // leaf.shape[0]
    pairs = [(output, window) for output, window in zip(outputs, cotangents, strict=True) if output.requires_grad]
    if not pairs:
        return leaf.new_zeros(cotangents[0].values.shape[0], *leaf.shape[1:])
    connected = [output for output, _ in pairs]
    if batched and of_each > 1:
        try:
            full = [_padded(window, output, range(of_each)) for output, window in pairs]
            return _gradient(connected, leaf, full, batched=True).transpose(0, 1).flatten(0, 1)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError:  # an operator that vmap does not know; a real error comes again below
            pass
    rows = []
    for number in range(of_each):
        # A path whose cotangent is zero would cost as much as any other.
        reached = [(output, window) for output, window in pairs if window.values[number::of_each].any()]
        full = [_padded(window, output, range(number, number + 1))[0] for output, window in reached]
        rows.append(_gradient([output for output, _ in reached], leaf, full) if reached else torch.zeros_like(leaf))
    return torch.stack(rows, 1).flatten(0, 1)


def _padded(window: Window, output: Tensor, numbers: range) -> Tensor:
    """Return the chosen cotangents of each image on the whole feature map, ``[numbers, n, C, H, W]``."""
    images = output.shape[0]
    by_image = window.values.reshape(images, len(window.values) // images, *window.values.shape[1:])
    values = by_image[:, numbers.start : numbers.stop].transpose(0, 1)
    full = values.new_zeros(values.shape[0], *output.shape, dtype=output.dtype)
    full[..., window.top : window.bottom, window.left : window.right] = values
    return full


def _gradient(outputs: Sequence[Tensor], leaf: Tensor, cotangents: Sequence[Tensor], batched: bool = False) -> Tensor:
    (gradient,) = torch.autograd.grad(
        outputs, leaf, cotangents, retain_graph=True, is_grads_batched=batched, allow_unused=True
    )
    if gradient is None:
        return leaf.new_zeros(*cotangents[0].shape[: int(batched)], *leaf.shape)
    return gradient
