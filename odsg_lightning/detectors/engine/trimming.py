"""Windows without their rim: where a cotangent hardly reaches, it is not carried any further. Approximate.

A cotangent spreads by a cell with each 3x3 convolution, but its mass, the sum of its magnitudes, stays near the middle:
the rim of a window costs as much as any other part of it, and carries next to nothing.
"""

import torch
from torch import Tensor

from odsg_lightning.detectors.engine.strided_window import StridedWindow

_RIM = 2.0
"""How much more of what is dropped would have reached the image than of the rest, at most: where a cotangent is thin,
less of it meets and cancels further down. Through random networks it was up to 1.7, through trained ones below 1."""


def trimmed(window: StridedWindow, share: float) -> tuple[StridedWindow, Tensor]:
    """Drop the rim of a window that holds less than a share of every cotangent's mass.

    Each of the four sides may lose a quarter of the share. The window is common to all cotangents, so a row or column
    of cells goes only where it is light for every one of them. One cell stays of a window of zeros.

    Args:
        window: ``[N, h, w, C]``.
        share: of the mass of each cotangent, 0 to 1; at 0 only zeros are dropped.

    Returns:
        The window without its rim, a view; and ``[N]`` the share of its mass that each cotangent lost.

    Example:
        >>> line = torch.tensor([0.0625, 5.9375, 2.0, 0.0]).view(1, 1, 4, 1)
        >>> kept, dropped = trimmed(StridedWindow(line, top=5, left=5), 0.05)
        >>> kept.left, kept.values.flatten().tolist(), dropped.tolist()
        (6, [5.9375, 2.0], [0.0078125])
    """
    single_at_least = torch.promote_types(window.values.dtype, torch.float32)
    mass = window.values.abs().sum(3, dtype=single_at_least)  # [N, h, w]
    rows, columns = mass.sum(2), mass.sum(1)
    total = rows.sum(1)
    sides = (rows, columns, rows.flip(1), columns.flip(1))
    light = [(side.cumsum(1) <= share / 4 * total[:, None]).all(0).sum() for side in sides]
    top, left, below, right = torch.stack(light).tolist()
    height, width = mass.shape[1:]
    if top == height:
        top, left, below, right = 0, 0, height - 1, width - 1
    kept = slice(top, height - below), slice(left, width - right)
    lost = (total - mass[:, *kept].sum((1, 2))).clamp(min=0) / total.where(total > 0, 1)
    step = window.step
    return StridedWindow(window.values[:, *kept], window.top + step * top, window.left + step * left, step), lost


class Trimmer:
    """Trims the windows of one vector-Jacobian product, and remembers what that cost.

    Args:
        share: see :func:`trimmed`; at 0 windows stay as they are, and the product is exact.

    Attributes:
        dropped: ``[N]`` an estimate, on the high side, of the share that is missing in the sum of each gradient's
            magnitudes: twice the shares that were dropped, added up. No bound. None before any window was trimmed.
    """

    def __init__(self, share: float) -> None:
        """See the class for the arguments."""
        self._share = share
        self.dropped: Tensor | None = None

    def __call__(self, window: StridedWindow) -> StridedWindow:
        """Return the window without its rim."""
        if not self._share:
            return window
        window, lost = trimmed(window, self._share)
        self.dropped = _RIM * lost if self.dropped is None else self.dropped + _RIM * lost
        return window
