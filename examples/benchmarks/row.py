"""A line of the table of detectors: how one is built, with random weights, and what its gradients hold fixed."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from odsg_lightning.saliency.protocol import Detector


@dataclass(frozen=True)
class Row:
    """One detector.

    Attributes:
        name: for people.
        make: builds it for images of ``size`` pixels, in eval mode, on the CPU and in single precision.
        traps: what to mind, in a few words; the rest is in docs/detectors.md.
        held: of the detector: keeps what its gradients do not flow through as it was in the first forward pass inside.
        step: of the finite differences, in grey levels.
    """

    name: str
    make: Callable[[int], Detector]
    traps: str
    held: Callable[[Any], AbstractContextManager[None]] = lambda _: nullcontext()
    step: float = 1e-3


@contextmanager
def output_held(module: nn.Module) -> Iterator[None]:
    """Let a module return what it returned the first time, whatever it is given."""
    kept: list[Any] = []

    def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        kept.append(output)
        return kept[0]

    handle = module.register_forward_hook(keep)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def detached_held(detector: Any) -> Iterator[None]:
    """Let what the model of an adapter detaches be what it was in the first forward pass, whatever the image."""
    forward, values = detector.model.forward, {}

    def held(*args: Any, **inputs: Any) -> Any:
        with _Held(values):
            return forward(*args, **inputs)

    detector.model.forward = held
    try:
        yield
    finally:
        del detector.model.forward


class _Held(TorchFunctionMode):
    """Replaces the n-th detached tensor by the n-th of the values, which the first of these modes fills."""

    def __init__(self, values: dict[int, Tensor]) -> None:
        super().__init__()
        self._values, self._count = values, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is not Tensor.detach:
            return result
        self._count += 1
        return self._values.setdefault(self._count, result)


def made_lively(model: nn.Module) -> nn.Module:
    """Draw the weights of an untrained DETR-like detector so that what it finds depends on the image.

    The last layer of its box heads begins at zero. Weights get a standard deviation of 1 / sqrt(inputs); biases, of
    which those of the class head begin low, stay about where they are. With :func:`made_loud` the refinements of six
    decoder layers add up to slivers and to boxes that leave the image.

    Args:
        model: changed in place, and returned in eval mode.
    """
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        else:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def made_loud(model: nn.Module, run: Callable[[], object]) -> None:
    """Scale the weights of an untrained detector layer by layer, so that what it finds depends on the image.

    The outputs of each convolution and linear layer get a standard deviation of 1 (Mishkin & Matas, "All you need is a
    good init", 2016): as they are drawn, those of the heads are nearly constant, and those of a residual network whose
    normalisation has no statistics yet overflow.

    Args:
        model: in eval mode; changed in place. All biases of these layers become zero.
        run: runs it on an image.
    """
    layers = [child for child in model.modules() if isinstance(child, nn.Conv2d | nn.Linear)]
    scaled: set[nn.Module] = set()

    def scale(layer: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        spread = output.std() if output.numel() > 1 else torch.zeros(())
        if layer in scaled or not spread > 0:
            return output
        scaled.add(layer)
        layer.get_parameter("weight").div_(spread)
        return output / spread

    with torch.no_grad(), ExitStack() as hooks:
        for layer in layers:
            if layer.bias is not None:
                layer.bias.zero_()
            if not layer.weight.any():
                nn.init.kaiming_normal_(layer.weight)
            hooks.callback(layer.register_forward_hook(scale).remove)
        run()
