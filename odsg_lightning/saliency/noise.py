"""Gaussian input noise, seeded by a generator of its own."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

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


def noisy_images(image: Tensor, n_samples: int, sigma: float, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield ``n_samples`` noise samples: the image with Gaussian noise added, not clipped to the pixel range.

    Args:
        image: ``[3, H, W]``, 0 to 255.
        n_samples: how many.
        sigma: standard deviation relative to the pixel range: 0.05 is 12.75 grey levels.
        generator: source of the noise, on the CPU.

    Example:
        >>> image = torch.full((3, 100, 100), 128.0)
        >>> [sample] = noisy_images(image, 1, sigma=0.05, generator=image_generator(seed=0, image_id=7))
        >>> bool(((sample - image).std() - 0.05 * PIXEL_RANGE).abs() < 0.3)
        True
    """
    for _ in range(n_samples):
        noise = torch.randn(image.shape, generator=generator, dtype=image.dtype)
        yield image + (sigma * PIXEL_RANGE) * noise.to(image.device)
