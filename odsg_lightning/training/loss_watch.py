"""Sees a loss that is not finite at the step where it arises, without making a GPU wait."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odsg_lightning.errors import NonFiniteLossError


@dataclass(frozen=True)
class _Losses:
    step: int
    image_ids: Sequence[Any]
    names: tuple[str, ...]
    values: Tensor  # on the CPU; being copied there until ``copied``
    copied: Any  # a CUDA event, or None


class LossWatch:
    """Keeps the losses of a step, and looks at them as soon as that costs nothing.

    On a CPU that is at once. From a GPU they are copied while it goes on computing, and looked at one step later: to
    ask at once would have the GPU wait for Python in every step.

    Example:
        >>> watch = LossWatch()
        >>> watch.keep(7, [12], {"loss_cls": torch.tensor(float("nan")), "loss_box_reg": torch.tensor(0.5)})
        >>> watch.look(skips_steps=False)
        Traceback (most recent call last):
        odsg_lightning.errors.NonFiniteLossError: Expected finite losses, but at step 7 loss_cls is nan ...
    """

    def __init__(self) -> None:
        """Begin with nothing to look at."""
        self._kept: _Losses | None = None
        self._warned = False

    def __reduce__(self) -> Any:
        """Copy and pickle without what is on its way from a GPU."""
        return type(self), ()

    def keep(self, step: int, image_ids: Sequence[Any], losses: Mapping[str, Tensor]) -> None:
        """Keep the losses of a step for the next :meth:`look`."""
        values, copied = torch.stack([loss.detach() for loss in losses.values()]), None
        if values.is_cuda:
            values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        self._kept = _Losses(step, image_ids, tuple(losses), values, copied)

    @property
    def ready(self) -> bool:
        """Whether to look now makes nothing wait."""
        return self._kept is not None and (self._kept.copied is None or self._kept.copied.query())

    def look(self, *, skips_steps: bool) -> None:
        """Look at what was kept, if anything was.

        Args:
            skips_steps: whether a step without finite gradients is skipped, as AMP's GradScaler does while it looks for
                a scale: then one warning says so, and training goes on.

        Raises:
            NonFiniteLossError: a loss was not finite, and no step is skipped.
        """
        kept, self._kept = self._kept, None
        if kept is None:
            return
        if kept.copied is not None:
            kept.copied.synchronize()
        values = dict(zip(kept.names, kept.values.tolist(), strict=True))
        if all(map(math.isfinite, values.values())):
            return
        bad = ", ".join(f"{name} is {value}" for name, value in values.items() if not math.isfinite(value))
        fine = ", ".join(f"{name} {value:.4g}" for name, value in values.items() if math.isfinite(value)) or "none"
        what = f"Expected finite losses, but at step {kept.step} {bad} (finite: {fine}; images {list(kept.image_ids)})."
        if not skips_steps:
            raise NonFiniteLossError(
                f"{what} Training stops: what it learned would be lost. Lower the learning rate (SOLVER.BASE_LR), clip "
                "gradients (SOLVER.CLIP_GRADIENTS), or look at these images, and go on from the last checkpoint."
            )
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{what} The gradient scaler skips such a step; if it goes on, lower the learning rate or use "
                "precision='bf16-mixed'. This is said once.",
                RuntimeWarning,
                stacklevel=2,
            )
