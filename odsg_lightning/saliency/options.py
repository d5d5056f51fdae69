"""How SmoothGrad is computed, as a user may choose it. No torch here: settings are read where it is not installed."""

from typing import Literal, get_args

from odsg_lightning.errors import UserInputError

Engine = Literal["auto", "windowed", "cut", "batched", "autograd"]
"""Ways to the same gradients: the fastest that the detector has, or one by name. ``"windowed"`` and ``"cut"`` are the
detector's own; any detector has ``"batched"``, several outputs in each backward pass, and ``"autograd"``, one."""

ANY_DETECTOR = ("batched", "autograd")
"""The engines that serve any detector."""

Precision = Literal["full", "bf16"]
"""Of the linear backward pass alone: that of the image, or bfloat16, which is approximate."""


MOST_TRIMMED = 0.1
"""A share that ``trim`` must stay below: sixteen blocks that lose a tenth each leave a fifth of a gradient."""


def check_engine(engine: str, precision: str, trim: float = 0.0) -> None:
    """Refuse names that mean nothing, and a share out of range.

    Raises:
        UserInputError: names the argument, what is allowed and what came.
    """
    if engine not in get_args(Engine):
        raise UserInputError(f"Expected argument `engine` to be one of {get_args(Engine)}, but got {engine!r}.")
    if precision not in get_args(Precision):
        raise UserInputError(
            f"Expected argument `precision` to be one of {get_args(Precision)}, but got {precision!r}."
        )
    if isinstance(trim, bool) or not isinstance(trim, int | float) or not 0 <= trim < MOST_TRIMMED:
        raise UserInputError(f"Expected argument `trim` to be a number in [0, {MOST_TRIMMED}), but got {trim!r}.")


def check_tolerance(tolerance: float | None) -> None:
    """Refuse a tolerance out of range; see :func:`odsg_lightning.saliency.smoothgrad.smoothgrad` for its meaning.

    Raises:
        UserInputError: says the range and what came.
    """
    if tolerance is not None and not 0 < tolerance < 1:
        raise UserInputError(f"Expected argument `tolerance` to be None or between 0 and 1, but got {tolerance!r}.")
