"""SmoothGrad: the mean of another explainer's maps over noisy copies of the image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from odsg_lightning.errors import UserInputError
from odsg_lightning.explainers.base import LookingExplainer
from odsg_lightning.explainers.gradient import Gradient
from odsg_lightning.names import PARAMETERS
from odsg_lightning.saliency.options import check_tolerance
from odsg_lightning.saliency.protocol import Detector
from odsg_lightning.saliency.smoothgrad import smoothgrad
from odsg_lightning.types import Detections, ObjectSaliency


@dataclass(frozen=True)
class SmoothGrad:
    """Smilkov et al. (2017), as Gwon & Howell (2023) use it: over the copies in which the object is detected again.

    Attributes:
        of: what is averaged.
        n_samples: noisy copies; with a ``tolerance``, the most that an object gets.
        sigma: standard deviation of the noise relative to the pixel range (0.05 is 12.75 grey levels).
        tolerance: None for all copies, or when to stop before: :func:`odsg_lightning.saliency.smoothgrad.smoothgrad`.

    Raises:
        UserInputError: a value out of range.

    Example:
        >>> SmoothGrad(Gradient(engine="autograd"), n_samples=8).samples
        8
    """

    of: LookingExplainer = field(default_factory=Gradient)
    n_samples: int = 20
    sigma: float = 0.05
    tolerance: float | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not isinstance(self.n_samples, int) or isinstance(self.n_samples, bool) or self.n_samples < 1:
            raise UserInputError(
                f"Expected argument `n_samples` to be an integer of at least 1, but got {self.n_samples!r}."
            )
        if not 0 <= self.sigma < float("inf"):
            raise UserInputError(f"Expected argument `sigma` to be a finite number, 0 or more, but got {self.sigma!r}.")
        check_tolerance(self.tolerance)

    @property
    def parameters(self) -> tuple[str, ...]:
        """All five."""
        return PARAMETERS

    @property
    def samples(self) -> int:
        """:attr:`n_samples`."""
        return self.n_samples

    def explain(
        self,
        detector: Detector,
        image: Tensor,
        reference: Detections,
        indices: Sequence[int],
        *,
        generator: torch.Generator,
        match_iou: float | None = 0.7,
        on_sample: Callable[[], None] = lambda: None,
    ) -> list[ObjectSaliency]:
        """See :class:`odsg_lightning.explainers.base.Explainer`."""
        return smoothgrad(
            detector,
            image,
            reference,
            indices,
            generator=generator,
            n_samples=self.n_samples,
            sigma=self.sigma,
            match_iou=match_iou,
            tolerance=self.tolerance,
            look=self.of.look,
            on_sample=on_sample,
        )
