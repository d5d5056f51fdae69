"""When more noise samples would hardly change an object's maps: the stopping rule of SmoothGrad."""

from torch import Tensor

FEWEST_MATCHED = 3
"""No object stops before so many matched samples: the step from one to two says little about the next ones."""


def correlation_distance(maps: Tensor, other: Tensor) -> Tensor:
    """Return 1 - Pearson correlation of each map with its counterpart, 0 to 2.

    It is exactly 0 for equal maps, and small values keep their digits: it is computed as half the squared distance of
    two vectors of length 1.

    Args:
        maps: ``[..., H, W]``.
        other: ``[..., H, W]``.

    Returns:
        ``[...]``, NaN where either map is the same at every pixel or not finite.
    """
    distance: Tensor = _directions(maps).sub_(_directions(other)).square_().sum(dim=-1) / 2
    return distance


def has_settled(before: Tensor, after: Tensor, tolerance: float) -> bool:
    """Whether one more sample left every map as it was: 1 - Pearson correlation is at most ``tolerance`` for each.

    Left out are maps to which no sample has contributed yet (zero everywhere in both: a coordinate clipped at the image
    border) and maps that are not finite, which no further sample can mend. If all five are zero, nothing has settled:
    the next sample may be the first that contributes. A correlation without a value (a map that just ceased to be zero,
    or is the same at every pixel) exceeds every tolerance.

    Args:
        before: ``[5, H, W]`` running mean, or sum (a correlation does not see the difference), before the sample.
        after: ``[5, H, W]`` the same with the sample.
        tolerance: between 0 and 1.
    """
    finite = after.flatten(1).isfinite().all(dim=1)
    zero = ~after.flatten(1).any(dim=1)
    if zero.all():
        return False
    distance = correlation_distance(before, after)
    return bool(((distance <= tolerance) | zero | ~finite).all())


def _directions(maps: Tensor) -> Tensor:
    """``[..., H * W]`` each map less its mean, divided by its length; NaN where that is 0."""
    centred = maps.flatten(-2) - maps.flatten(-2).mean(dim=-1, keepdim=True)
    length: Tensor = centred.norm(dim=-1, keepdim=True)
    return centred / length
