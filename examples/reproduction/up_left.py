"""The network looks up-left: where a feature cell looks, against where the head thinks that the cell is.

A convolution of stride 2 with padding takes the even pixels, so that cell j of a level of stride s looks around pixel
s * j, and not around the middle of the s pixels that RoIAlign takes for its own, s * j + (s - 1) / 2: it lies (s - 1) / 2
pixels too far up and left. The pyramid's nearest upsampling hands the larger shifts of the coarse levels to the fine
ones. RetinaNet's anchors are centred on s * j, so that there only the pyramid's part is left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from odsg_lightning.audit.isolation import isolated

_CELLS = 8
"""Neighbouring cells that are averaged: as many as a cell of p5 has in p2, so that every place in it comes once."""


@dataclass(frozen=True)
class Look:
    """Where the cells of one level look.

    Attributes:
        level: such as ``"p3"``.
        stride: pixels from cell to cell.
        shift: ``[2]`` mean (x, y) of the centre of |d cell / d image| less the middle of the cell's own pixels.
        spread: of the same, over cells and pictures.
        window: ``[h, w]`` the mean gradient, around the middle of the cell's own pixels.
    """

    level: str
    stride: int
    shift: NDArray[np.float64]
    spread: NDArray[np.float64]
    window: NDArray[np.float64]


def looks(detector: Any, pictures: Sequence[Tensor], projections: int = 4, seed: int = 0) -> list[Look]:
    """Measure every level of a Detectron2 detector's pyramid.

    Args:
        detector: with ``backbone`` and ``preprocess_image``.
        pictures: RGB ``[3, H, W]``, 0 to 255, as large as the network's reach, or larger.
        projections: random sums of a cell's channels that are differentiated, for each cell.
        seed: of these.
    """
    generator = torch.Generator().manual_seed(seed)
    gathered: dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = {}
    strides = {}
    with isolated(detector):
        for picture in pictures:
            pixels = detector.preprocess_image([{"image": picture}]).tensor.requires_grad_()
            features: Mapping[str, Tensor] = detector.backbone(pixels)
            for level, feature in features.items():
                stride = pixels.shape[-1] // feature.shape[-1]
                strides[level] = stride
                first = [max(0, (length - _CELLS) // 2) for length in feature.shape[2:]]
                for step in range(min(_CELLS, *feature.shape[2:])):
                    row, column = first[0] + step, first[1] + step
                    gradient = _gradient(feature[0, :, row, column], pixels, projections, generator)
                    gathered.setdefault(level, []).append(_centred(gradient, (row + 0.5) * stride, (column + 0.5) * stride))
    found = []
    for level, of_level in gathered.items():
        shifts = np.stack([shift for shift, _ in of_level])
        side = min(window.shape[0] for _, window in of_level)
        window = np.mean([_middle(window, side) for _, window in of_level], axis=0)
        found.append(Look(level, strides[level], shifts.mean(axis=0), shifts.std(axis=0), window))
    return found


def _gradient(cell: Tensor, pixels: Tensor, projections: int, generator: torch.Generator) -> NDArray[np.float64]:
    """Return the mean |d sum / d pixel| ``[H, W]`` of random signed sums of a cell's channels ``[C]``."""
    total = torch.zeros(pixels.shape[2:], dtype=torch.float64)
    for _ in range(projections):
        signs = (torch.randint(0, 2, cell.shape, generator=generator) * 2.0 - 1).to(cell)
        (gradient,) = torch.autograd.grad((cell * signs).sum(), pixels, retain_graph=True)
        total += gradient[0].abs().amax(dim=0).double().cpu()
    return total.numpy() / projections


def _centred(gradient: NDArray[np.float64], y: float, x: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how far the gradient's centre (x, y) is from a place, and the gradient around it, its maximum 1."""
    mass = gradient.sum()
    centres = [(np.arange(length) + 0.5) for length in gradient.shape]
    shift = np.array([gradient.sum(axis=0) @ centres[1] / mass - x, gradient.sum(axis=1) @ centres[0] / mass - y])
    half = int(min(y, x, gradient.shape[0] - y, gradient.shape[1] - x))
    top, left = int(round(y)) - half, int(round(x)) - half
    window = gradient[top : top + 2 * half, left : left + 2 * half]
    return shift, window / window.max()


def _middle(window: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    start = (window.shape[0] - side) // 2
    return window[start : start + side, start : start + side]


def untrained(module: nn.Module, seed: int) -> nn.Module:
    """Return the detector of a module as one that was never trained: its weights drawn anew."""
    raise NotImplementedError
