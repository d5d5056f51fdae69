"""The ways to compute gradient maps that the benchmark compares, each as a function of a case.

Each is written once and measured twice: ``read`` is a clock in one call and a counter of floating-point operations in
another, and the cost comes back in its unit.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as functional
from case import Case, Cost
from planted import SIGMA
from torch import Tensor, nn

from odsg_lightning.detectors.engine.backbone import AutogradBackbone
from odsg_lightning.detectors.engine.windowed import WindowedBackbone
from odsg_lightning.names import PARAMETERS
from odsg_lightning.saliency.gradients import linearize, linearize_together
from odsg_lightning.saliency.memory import images_at_once
from odsg_lightning.saliency.noise import PIXEL_RANGE
from odsg_lightning.types import LocalGradient

Read = Callable[[], float]
N_MASKS = 5000
"""Masked images of one D-RISE explanation."""

_DRISE_GRID, _DRISE_KEPT = 16, 0.5
_SLOW_OUTPUTS = 2  # outputs measured of the variants that only illustrate what not to do


Measured = tuple[Cost, list[Tensor]]
"""The cost of an object, and the first gradients ``[3, H, W]``, in the order object, output."""


def plain_autograd(case: Case, read: Read) -> Measured:
    """``autograd.grad`` of each output by the image, parameters frozen: the reference."""
    return _plain(case, read, case.outputs)


def stacked_autograd(case: Case, read: Read) -> Measured:
    """The same of boxes and scores stacked into one tensor: each gradient then goes through both subnets as zeros."""
    return _plain(case, read, min(case.outputs, _SLOW_OUTPUTS), stacked=True)


def plain_backward(case: Case, read: Read) -> Measured:
    """``output.backward()`` while the parameters require a gradient, as in a training script."""
    trained = [parameter for name, parameter in case.model.named_parameters() if not name.startswith(_NEVER_TRAINED)]
    for parameter in trained:
        parameter.requires_grad_(True)
    try:
        return _plain(case, read, min(case.outputs, _SLOW_OUTPUTS), backward=True)
    finally:
        for parameter in trained:
            parameter.requires_grad_(False)
            parameter.grad = None


_NEVER_TRAINED = ("backbone.bottom_up.stem", "backbone.bottom_up.res2")  # FREEZE_AT 2, the model zoo's


def _plain(case: Case, read: Read, outputs: int, *, backward: bool = False, stacked: bool = False) -> Measured:
    image = case.image.clone().requires_grad_()
    with _features_done(case.model, read) as done:
        start = read()
        (detections,) = case.detector.detect([image])
        forward = read() - start
        numbers = detections.parameters if stacked else None
        found, gradients, head, backbone = case.find(detections.detach()), [], 0.0, 0.0
        for index in range(outputs):
            row, column = found[index // len(PARAMETERS)], index % len(PARAMETERS)
            number = detections.number(row, column) if numbers is None else numbers[row, column]
            start = read()
            if backward:
                image.grad = None
                number.backward(retain_graph=True)
                gradient = image.grad
            else:
                (gradient,) = torch.autograd.grad(number, image, retain_graph=True)
            end = read()
            head, backbone = head + done[-1] - start, backbone + end - done[-1]
            gradients.append(gradient)
    share = len(PARAMETERS) / outputs
    return Cost(forward / case.count, head * share, backbone * share), gradients


def captum_loop(case: Case, read: Read) -> Measured:
    """Captum's ``NoiseTunnel(Saliency)`` for one output after the other, each with a forward pass of its own."""
    from captum.attr import NoiseTunnel, Saliency

    laps: list[float] = []

    def number(pixels: Tensor, index: int) -> Tensor:
        laps.append(read())
        (detections,) = case.detector.detect([pixels[0]])
        row = case.find(detections.detach())[index // len(PARAMETERS)]
        laps.append(read())
        return detections.number(row, index % len(PARAMETERS))[None]

    tunnel, outputs = NoiseTunnel(Saliency(number)), min(case.outputs, _SLOW_OUTPUTS)
    cost = [0.0, 0.0, 0.0]
    with _features_done(case.model, read) as done:
        for index in range(outputs):
            torch.manual_seed(index)
            start = read()
            tunnel.attribute(
                case.clean[None],
                nt_samples=1,
                nt_samples_batch_size=1,
                stdevs=SIGMA * PIXEL_RANGE,
                additional_forward_args=(index,),
            )
            marks = [start, laps[-1], done[-1], read()]
            cost = [part + end - begin for part, (begin, end) in zip(cost, pairwise(marks), strict=True)]
    return Cost(*(part * len(PARAMETERS) / outputs for part in cost)), []


@torch.no_grad()
def drise(case: Case, read: Read, masks: int = 2) -> Measured:
    """D-RISE: similarity-weighted sum of random masks; a few of its forward passes, extrapolated to all 5000.

    The passes serve all objects of the picture. What comes out is one map for each object, not five.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = case.clean.shape[1:]
    start = read()
    saliency = case.clean.new_zeros(case.count, height, width)
    for _ in range(masks):
        cells = (torch.rand(1, 1, _DRISE_GRID, _DRISE_GRID, generator=generator) < _DRISE_KEPT).to(case.clean)
        size = (height + height // _DRISE_GRID, width + width // _DRISE_GRID)
        mask = functional.interpolate(cells, size=size, mode="bilinear")[0, 0, :height, :width]
        (found,) = case.detector.detect([case.clean * mask])
        saliency += mask * case.similarity(found)[:, None, None]
    return Cost((read() - start) / masks * N_MASKS / case.count, 0.0, 0.0), []


TRIM = 0.001
"""Share that the trimmed variants leave out at every block."""


def engine(
    name: str, precision: str = "full", *, logits: bool = False, trim: float = 0.0
) -> Callable[[Case, Read], Measured]:
    """Return the variant of an engine of this package, of what is returned or of the logits and boxes behind it."""

    def measure(case: Case, read: Read) -> Measured:
        detector = case.candidates if logits else case.detector
        start = read()
        linearization = linearize(detector, case.image, engine=name, precision=precision, trim=trim)
        forward = read() - start
        found, gradients = list(range(case.count)) if logits else case.find(linearization.detections), []
        with _backbone_reader(read) as backbone:
            start = read()
            for local in linearization.gradients(found):
                if len(gradients) < case.outputs:
                    gradients += _whole(local, case.image)
            spent = read() - start
        cost = Cost(forward / case.count, (spent - sum(backbone)) / case.count, sum(backbone) / case.count)
        return cost, gradients[: case.outputs]

    return measure


def together(precision: str = "full", trim: float = 0.0, samples: int = 16) -> Callable[[Case, Read], Measured]:
    """Return the variant of the windowed engine at several noise samples, for each of them and each object."""

    def measure(case: Case, read: Read) -> Measured:
        images, forward, spent, taken, gradients = case.samples(samples), 0.0, 0.0, 0, []
        with _backbone_reader(read) as backbone:
            start = read()
            for batch in linearize_together(case.detector, images, "windowed", precision, trim):
                forward += read() - start
                start = read()
                tracks = case.track(batch.detections)
                for track, local in zip(tracks, batch.gradients(tracks), strict=True):
                    taken += len(local.values)
                    if track[0] >= 0 and len(gradients) < case.outputs:
                        gradients += _whole(local._replace(values=local.values[0]), case.image)
                del batch
                spent += read() - start
                start = read()
        cost = Cost(forward / taken, (spent - sum(backbone)) / taken, sum(backbone) / taken)
        return cost, gradients[: case.outputs]

    return measure


def _whole(local: LocalGradient, image: Tensor) -> Tensor:
    """Return a gradient on the whole image, ``[5, 3, H, W]``."""
    whole = image.new_zeros(len(PARAMETERS), *image.shape)
    bottom, right = local.top + local.values.shape[2], local.left + local.values.shape[3]
    whole[..., local.top : bottom, local.left : right] = local.values
    return whole


VARIANTS: Mapping[str, Callable[[Case, Read], Measured]] = {
    "backward": plain_backward,
    "autograd": plain_autograd,
    "stacked": stacked_autograd,
    "captum": captum_loop,
    "drise": drise,
    "cut": engine("cut"),
    "cut-logits": engine("cut", logits=True),
    "windowed": engine("windowed"),
    "windowed-logits": engine("windowed", logits=True),
    "windowed-bf16": engine("windowed", "bf16"),
    "windowed-trimmed": engine("windowed", trim=TRIM),
    "windowed-trimmed-bf16": engine("windowed", "bf16", trim=TRIM),
    "windowed-16": together(),
    "windowed-trimmed-bf16-16": together("bf16", TRIM),
}


def one_by_one(variant: str, image: Tensor) -> bool:
    """Whether a variant would take several noise samples together, but images of this size do not go together."""
    return variant.endswith("-16") and images_at_once(image, image.device) == 1


def why_not(case: Case, variant: str) -> str:
    """Return why a detector does not have this engine, or this device no use for it; empty otherwise."""
    name, _, kind = variant.partition("-")
    if name not in ("cut", "windowed"):
        return ""
    on_cpu = case.image.device.type == "cpu"
    if on_cpu and "bf16" in kind and torch.backends.cpu.get_cpu_capability() != "AVX512":
        return "this CPU has no instructions for bfloat16"
    if one_by_one(variant, case.image):
        return "images of this size go one by one on this device, as in the variant without -16"
    asked = (name, "bf16" if "bf16" in kind else "full", TRIM if "trimmed" in kind else 0.0)
    choice = (case.candidates if kind == "logits" else case.detector).choose_engine(*asked)
    same = (choice.name, choice.precision, choice.trim) == asked
    return "" if same else f"{choice.name} ({choice.precision}, trim={choice.trim:g}): {choice.reason}"


@contextmanager
def _features_done(model: nn.Module, read: Read) -> Iterator[list[float]]:
    """Read at the moment when the gradients of all the backbone's features are known: the head is done then."""
    done: list[float] = []

    def watch(module: nn.Module, args: object, features: dict[str, Tensor]) -> None:
        for feature in features.values():
            if feature.requires_grad:
                feature.register_hook(lambda gradient: done.append(read()))

    handle = model.get_submodule("backbone").register_forward_hook(watch)
    try:
        yield done
    finally:
        handle.remove()


@contextmanager
def _backbone_reader(read: Read) -> Iterator[list[float]]:
    """Read before and after each of the engines' backward passes through the backbone."""
    spent: list[float] = []

    def measured(vjp: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            start = read()
            window = vjp(*args, **kwargs)
            spent.append(read() - start)
            return window

        return wrapper

    with (
        patch.object(AutogradBackbone, "vjp", measured(AutogradBackbone.vjp)),
        patch.object(WindowedBackbone, "vjp", measured(WindowedBackbone.vjp)),
    ):
        yield spent
