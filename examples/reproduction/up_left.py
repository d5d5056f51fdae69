"""The network looks up-left: where a feature cell looks, against where the head thinks that the cell is.

    python examples/reproduction/up_left.py --checkpoint runs/reproduction/checkpoints/*.ckpt
    python examples/reproduction/up_left.py --config retinanet_R_50_FPN       # its weights drawn at random

A convolution of stride 2 with padding looks at the even pixels, so that cell j of a level of stride s looks around
pixel s * j, and not around the middle of its own s pixels, s * j + (s - 1) / 2, where RoIAlign puts it: (s - 1) / 2
pixels too far up and left. The pyramid's nearest upsampling hands the large shifts of the coarse levels on to the fine
ones. RetinaNet's anchors are centred on the corner of the cell, s * j, where the ResNet looks: there, only what the
pyramid adds is left.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from odsg_lightning.audit.isolation import isolated
from odsg_lightning.checkpoints.detector import load_detector
from odsg_lightning.demo.drawing import draw_image
from odsg_lightning.detectors.build import build_detector, load_config

_CELLS = 8
"""Neighbouring cells that are averaged: a cell of p5 holds so many of p2, side by side."""


@dataclass(frozen=True)
class Look:
    """Where the cells of one level look.

    Attributes:
        level: such as ``"p3"``.
        stride: pixels from cell to cell.
        shift: ``[2]`` mean (x, y), in pixels, of the centre of |d cell / d image| less the middle of the cell's pixels.
        window: ``[h, w]`` the mean gradient around that middle.
    """

    level: str
    stride: int
    shift: NDArray[np.float64]
    window: NDArray[np.float64]


def looks(detector: Any, pictures: Sequence[Tensor], projections: int = 2, seed: int = 0) -> list[Look]:
    """Measure every level of a Detectron2 detector's backbone, of the ResNet (``res3``) and of the pyramid (``p3``).

    Args:
        detector: with ``backbone``, a pyramid, and ``preprocess_image``.
        pictures: RGB ``[3, H, W]``, 0 to 255; so large that what the cells in the middle see ends within them.
        projections: random signed sums of a cell's channels that are differentiated, for each cell.
        seed: of these.
    """
    generator = torch.Generator().manual_seed(seed)
    gathered: dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = {}
    strides = {}
    with isolated(detector):
        for picture in pictures:
            pixels = detector.preprocess_image([{"image": picture}]).tensor.requires_grad_()
            features: Mapping[str, Tensor] = detector.backbone.bottom_up(pixels) | detector.backbone(pixels)
            for level, feature in features.items():
                if min(feature.shape[2:]) < 2 * _CELLS:
                    continue  # its cells see over the border
                strides[level] = stride = pixels.shape[-1] // feature.shape[-1]
                rows, columns = ((length - _CELLS) // 2 for length in feature.shape[2:])
                for step in range(_CELLS):
                    cell = feature[0, :, rows + step, columns + step]
                    gradient = _gradient(cell, pixels, projections, generator)
                    place = (rows + step + 0.5) * stride, (columns + step + 0.5) * stride
                    gathered.setdefault(level, []).append(_around(gradient, *place))
    found = []
    for level, of_level in gathered.items():
        side = min(window.shape[0] for _, window in of_level)
        window = np.mean([_middle(window, side) for _, window in of_level], axis=0)
        found.append(Look(level, strides[level], np.mean([shift for shift, _ in of_level], axis=0), window))
    return found


def _gradient(cell: Tensor, pixels: Tensor, projections: int, generator: torch.Generator) -> NDArray[np.float64]:
    """Return the mean |d sum / d pixel| ``[H, W]`` of random signed sums of a cell's channels ``[C]``."""
    total = torch.zeros(pixels.shape[2:], dtype=torch.float64)
    for _ in range(projections):
        signs = (torch.randint(0, 2, cell.shape, generator=generator) * 2.0 - 1).to(cell)
        (gradient,) = torch.autograd.grad((cell * signs).sum(), pixels, retain_graph=True)
        total += gradient[0].abs().amax(dim=0).double().cpu()
    return total.numpy() / projections


def _around(gradient: NDArray[np.float64], y: float, x: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how far the centre (x, y) of a gradient is from a place, and the gradient around it, its maximum 1."""
    of_x, of_y = gradient.sum(axis=0), gradient.sum(axis=1)
    centre = [mass @ (np.arange(len(mass)) + 0.5) / mass.sum() for mass in (of_x, of_y)]
    half = int(min(y, x, gradient.shape[0] - y, gradient.shape[1] - x))
    window = gradient[int(y) - half : int(y) + half, int(x) - half : int(x) + half]
    return np.array(centre) - (x, y), window / gradient.max()


def _middle(window: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    start = (window.shape[0] - side) // 2
    return window[start : start + side, start : start + side]


def mosaic(seed: int, tiles: int = 4, size: int = 128) -> Tensor:
    """Return generated pictures side by side, RGB ``[3, tiles * size, tiles * size]``."""
    rng = np.random.default_rng([seed, 1, 1])
    rows = [np.concatenate([draw_image(rng, size)[0] for _ in range(tiles)], axis=1) for _ in range(tiles)]
    return torch.from_numpy(np.concatenate(rows)).permute(2, 0, 1).float()


def main(args: Sequence[str] | None = None) -> None:
    """Measure detectors, print a table, and draw the pyramid's levels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, nargs="+", default=[], help="of odsg_lightning")
    parser.add_argument("--config", nargs="+", default=[], help="measured with random weights")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of random weights")
    parser.add_argument("--projections", type=int, default=2, help="random sums of channels, for each cell")
    parser.add_argument("--output", type=Path, default=Path("up_left.png"))
    options = parser.parse_args(args)
    rows = [(path.stem, load_detector(path).detector) for path in options.checkpoint]
    for config in options.config:
        for seed in options.seeds:
            torch.manual_seed(seed)
            rows.append((f"{config}, random weights {seed}", build_detector(load_config(config)).eval()))
    print("| detector | level | stride | -(stride - 1) / 2 | x | y | against anchors at s * j, x | y |")
    print("|---|---|---|---|---|---|---|---|")
    drawn = []
    for name, detector in rows:
        found = looks(detector, [mosaic(0)], options.projections)
        drawn.append((name, [look for look in found if look.level.startswith("p")]))
        for look in found:
            against = look.shift + look.stride / 2
            numbers = f"{look.shift[0]:+.1f} | {look.shift[1]:+.1f} | {against[0]:+.1f} | {against[1]:+.1f}"
            print(f"| {name} | {look.level} | {look.stride} | {(1 - look.stride) / 2:+.1f} | {numbers} |", flush=True)
    from figures import up_left  # here, because it draws what this module finds

    up_left(drawn, options.output)


if __name__ == "__main__":
    main()
