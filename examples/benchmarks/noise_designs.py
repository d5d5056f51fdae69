"""Ways to draw a few noise samples together, each of them Gaussian by itself, so that their mean map has less variance.

Every design draws ``[n, ...]`` standard normal noise. Whatever the design, one sample alone is N(0, I): the mean over
samples has the expectation that it has with independent ones. What differs is how they depend on one another.
"""

import math
from collections.abc import Callable
from itertools import count

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

_BLOCK = 8
"""Side of the blocks whose means are quasi-random, in pixels; larger where there would be too many of them."""

Design = Callable[[int, tuple[int, ...], torch.Generator], Tensor]


def independent(n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw them as SmoothGrad does."""
    return torch.randn(n, *shape, generator=generator)


def antithetic(n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw pairs of opposite sign; of an odd number the last has no partner. Cancels what is odd, doubles the rest."""
    half = independent((n + 1) // 2, shape, generator)
    return torch.stack([half, -half], dim=1).flatten(0, 1)[:n]


def orthogonal(n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw orthogonal directions, and lengths from the chi distribution (Yu et al. 2016, "Orthogonal Random Features").

    The length of a Gaussian vector is independent of what Gram-Schmidt leaves of its direction.
    """
    drawn = independent(n, shape, generator).flatten(1)
    directions, triangle = torch.linalg.qr(drawn.T)
    directions *= triangle.diagonal().sign()  # Householder's signs are no coin's
    return (directions.T * drawn.norm(dim=1, keepdim=True)).view(n, *shape)


def centred(n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw samples whose sum is zero: each pair correlates by -1 / (n - 1). Cancels what is linear, and only that.

    For n = 2 it is an antithetic pair, for n = 1 nothing is done.
    """
    drawn = independent(n, shape, generator)
    return (drawn - drawn.mean(dim=0)) * math.sqrt(n / (n - 1)) if n > 1 else drawn


def latin(n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw a Latin hypercube: each pixel has one value in each of n strata, in an order of its own (McKay et al. 1979).

    Cancels what is a sum of functions of one pixel each, in the limit of many samples.
    """
    order = torch.rand(n, *shape, generator=generator).argsort(dim=0)
    within = torch.rand(n, *shape, generator=generator)
    return _normal((order + within.double()) / n)


def sobol(n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw the means of blocks from a scrambled Sobol sequence, and the rest independently."""
    drawn = independent(n, shape, generator)
    channels, height, width = shape
    side = next(s for s in count(_BLOCK) if channels * (height // s) * (width // s) <= SobolEngine.MAXDIM)
    rows, columns = height // side, width // side  # an incomplete row or column of blocks stays independent
    seed = int(torch.randint(2**31, (1,), generator=generator))
    points = SobolEngine(channels * rows * columns, scramble=True, seed=seed).draw(n, dtype=torch.float64)
    wanted = _normal(points).view(n, channels, rows, columns) / side  # a mean of 64 has a deviation of 1 / 8
    blocks = drawn[..., : rows * side, : columns * side]
    means = torch.nn.functional.avg_pool2d(blocks, side)
    blocks += (wanted - means).repeat_interleave(side, 2).repeat_interleave(side, 3)
    return drawn


def _normal(uniform: Tensor) -> Tensor:
    """Turn uniform numbers, float64, into normal ones."""
    return torch.special.ndtri(uniform.clamp(1e-12, 1 - 1e-12)).float()


DESIGNS: dict[str, Design] = {
    "independent": independent,
    "antithetic": antithetic,
    "orthogonal": orthogonal,
    "centred": centred,
    "latin": latin,
    "sobol": sobol,
}
NESTED = {"independent", "antithetic", "orthogonal", "sobol"}
"""Those whose first few samples are what so many would be; the samples of others depend on how many there are."""
