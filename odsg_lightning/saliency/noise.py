"""Gaussian input noise, seeded by a generator of its own."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from odsg_lightning.saliency.options import Noise

PIXEL_RANGE = 255.0
"""Width of the pixel range that ``sigma`` is relative to, in grey levels."""


def image_generator(seed: int, image_id: int) -> torch.Generator:
    """Return the generator of one image's noise.

    Every image has its own stream, so its maps do not depend on which other images are audited, in which order, or
    on which process. It lives on the CPU, so that the noise is the same whatever the device.

    Args:
        seed: seed of the audit, not negative.
        image_id: COCO image id.
    """
    state = int(np.random.SeedSequence([seed, image_id % 2**64]).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state)


def noisy_images(
    image: Tensor, n_samples: int, sigma: float, generator: torch.Generator, noise: Noise = "independent"
) -> Iterator[Tensor]:
    """Yield ``n_samples`` noise samples: the image with Gaussian noise added, not clipped to the pixel range.

    Args:
        image: ``[3, H, W]``, 0 to 255.
        n_samples: how many.
        sigma: standard deviation relative to the pixel range: 0.05 is 12.75 grey levels.
        generator: source of the noise, on the CPU.
        noise: ``"centred"`` noise samples add up to zero: each is Gaussian as before, and each two correlate by
            :math:`-1 / (n - 1)`. A mean over them has the same expectation; what in it is linear in the noise is gone
            from its variance. For two samples these are antithetic ones; one alone is not changed.

    Example:
        >>> image = torch.full((3, 100, 100), 128.0)
        >>> [sample] = noisy_images(image, 1, sigma=0.05, generator=image_generator(seed=0, image_id=7))
        >>> bool(((sample - image).std() - 0.05 * PIXEL_RANGE).abs() < 0.3)
        True
    """
    for drawn in _noise(image, n_samples, generator, centred=noise == "centred" and n_samples > 1):
        yield image + (sigma * PIXEL_RANGE) * drawn.to(image.device)


def _noise(image: Tensor, n: int, generator: torch.Generator, *, centred: bool) -> Iterator[Tensor]:
    """Yield standard normal noise of an image's shape, each sample given the sum of those before it."""
    total = torch.zeros(image.shape, dtype=image.dtype) if centred else None
    for left in range(n, 0, -1):
        drawn = torch.randn(image.shape, generator=generator, dtype=image.dtype)
        if total is not None:  # normal given the sum so far, as a set of vectors with the sum 0 has it
            drawn = math.sqrt(n * (left - 1) / ((n - 1) * left)) * drawn - total / left
            total += drawn
        yield drawn
