"""When more noisy passes would hardly change an object's maps: the stopping rule of SmoothGrad."""

from torch import Tensor

FEWEST_MATCHED = 3
"""No object stops before so many matched passes: the step from one pass to two says little about the next ones."""


def has_settled(before: Tensor, after: Tensor, tolerance: float) -> bool:
    """Whether one more pass left every map as it was: 1 - Pearson correlation is at most ``tolerance`` for each.

    Left out are maps to which no pass has contributed yet (zero everywhere in both: a coordinate clipped at the image
    border) and maps that are not finite, which no further pass can mend. If all five are zero, nothing has settled: the
    next pass may be the first that contributes. A correlation without a value (a map that just ceased to be zero, or
    is the same at every pixel) exceeds every tolerance.

    Args:
        before: ``[5, H, W]`` running mean, or sum (a correlation does not see the difference), before the pass.
        after: ``[5, H, W]`` the same with the pass.
        tolerance: between 0 and 1.
    """
    finite = after.flatten(1).isfinite().all(dim=1)
    zero = ~after.flatten(1).any(dim=1)
    if zero.all():
        return False
    # 1 - r of two vectors of length 1 is half their squared distance; so small values keep their digits.
    distance = _directions(before).sub_(_directions(after)).square_().sum(dim=1) / 2
    return bool(((distance <= tolerance) | zero | ~finite).all())


def _directions(maps: Tensor) -> Tensor:
    """``[5, H * W]`` each map less its mean, divided by its length; NaN where that is 0."""
    centred = maps.flatten(1) - maps.flatten(1).mean(dim=1, keepdim=True)
    length: Tensor = centred.norm(dim=1, keepdim=True)
    return centred / length
