"""What stands in the place of hidden pixels.

No replacement is neutral: grey leaves a silhouette, noise is evidence to a texture-minded detector, a blur lets colours
through. ``docs/evidence.md`` says how they were compared.
"""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2.functional import gaussian_blur

Replacement = Literal["inpaint", "blur", "grey", "other"]
REPLACEMENTS: tuple[Replacement, ...] = get_args(Replacement)

GREY = 127.5

_SOFTENED = 2.0  # standard deviation in pixels of the blur that takes the blocks out of what was inpainted
_FINE_SIGMA = 4.0  # a wider blur than this is computed on a smaller image


def replaced(
    image: Tensor, hole: Tensor, replacement: Replacement, *, sigma: float = 10.0, other: Tensor | None = None
) -> Tensor:
    """Return an image with the pixels of a hole replaced; all others stay as they are.

    Args:
        image: ``[3, H, W]`` RGB, float, 0 to 255.
        hole: ``[H, W]`` bool.
        replacement: ``"inpaint"``: smoothly, from the pixels around the hole; ``"blur"``: the blurred image;
            ``"grey"``: the middle of the range; ``"other"``: the pixels of another image.
        sigma: standard deviation of the blur in pixels.
        other: ``[3, h, w]`` the other image, scaled to the size of ``image``.

    Raises:
        ValueError: ``"other"`` without another image, or ``"inpaint"`` with nothing outside the hole.

    Example:
        >>> image, hole = torch.zeros(3, 8, 8), torch.zeros(8, 8, dtype=torch.bool)
        >>> image[:, :, 4:], hole[2:6, 2:6] = 200.0, True
        >>> [round(value) for value in replaced(image, hole, "inpaint")[0, 4].tolist()][::2]  # dark left, bright right
        [0, 52, 117, 200]
    """
    if replacement == "grey":
        fill = torch.full_like(image, GREY)
    elif replacement == "inpaint":
        fill = _inpainted(image, hole)
    elif replacement == "blur":
        fill = _blurred(image, sigma)
    elif other is None:
        raise ValueError("Expected argument `other` to be an image for replacement 'other', but got None.")
    else:
        fill = _scaled(other.to(image), tuple(image.shape[1:]))
    return torch.where(hole, fill, image)


def _inpainted(image: Tensor, hole: Tensor) -> Tensor:
    """Fill by push and pull (Gortler et al., *The Lumigraph*, 1996): averages of what is known, coarser where farther.

    O(pixels) whatever the size of the hole, and without an edge inside it.
    """
    if bool(hole.all()):
        raise ValueError("Expected pixels outside the hole to inpaint from, but the hole covers the whole image.")
    weights = [(~hole).to(image.dtype)[None]]
    values = [image * weights[0]]  # multiplied by their weights
    while max(weights[-1].shape[1:]) > 1:
        value, weight = (functional.avg_pool2d(level[-1], 2, ceil_mode=True) for level in (values, weights))
        full = (4 * weight).clamp(max=1)  # one known pixel of four is enough
        values.append(torch.where(weight > 0, value / weight.clamp(min=1e-12) * full, 0.0))
        weights.append(full)
    fill = values.pop()
    weights.pop()
    while values:
        value, weight = values.pop(), weights.pop()
        fill = value + (1 - weight) * _scaled(fill, tuple(value.shape[1:]))
    return _blurred(fill, _SOFTENED)


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """Blur; a wide one on a smaller image, where it costs as little as a narrow one."""
    size = image.shape[1:]
    factor = max(1, int(min(sigma / _FINE_SIGMA, *(side / 8 for side in size))))
    small = image if factor == 1 else _shrunk(image, factor)
    narrow = sigma / factor
    radius = min(round(3 * narrow), min(small.shape[1:]) - 1)
    blurred: Tensor = gaussian_blur(small, [2 * radius + 1] * 2, [narrow, narrow]) if radius else small
    return blurred if factor == 1 else _scaled(blurred, tuple(size))


def _shrunk(image: Tensor, factor: int) -> Tensor:
    return functional.avg_pool2d(image, factor, ceil_mode=True)


def _scaled(image: Tensor, size: tuple[int, ...]) -> Tensor:
    scaled: Tensor = functional.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]
    return scaled
