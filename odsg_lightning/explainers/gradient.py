"""The plain gradient: class saliency extraction, of each number of a detection."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from odsg_lightning.names import PARAMETERS
from odsg_lightning.saliency.gradients import gradient_looks
from odsg_lightning.saliency.options import Engine, Precision, check_engine
from odsg_lightning.saliency.protocol import Detector, Looks
from odsg_lightning.saliency.smoothgrad import smoothgrad
from odsg_lightning.types import Detections, ObjectSaliency


@dataclass(frozen=True)
class Gradient:
    """Largest magnitude of a number's three derivatives at each pixel (Simonyan et al., 2014).

    Attributes:
        engine: how gradients are computed: :func:`odsg_lightning.saliency.gradients.linearize`.
        precision: of the linear backward pass: see there.
        trim: share that the blocks of a network may leave out: see there.

    Raises:
        UserInputError: an engine or a precision of another name; a share out of range.
    """

    engine: Engine = "auto"
    precision: Precision = "full"
    trim: float = 0.0

    def __post_init__(self) -> None:
        """Refuse unknown names and a share out of range."""
        check_engine(self.engine, self.precision, self.trim)

    @property
    def parameters(self) -> tuple[str, ...]:
        """All five."""
        return PARAMETERS

    @property
    def samples(self) -> int:
        """One look."""
        return 1

    @property
    def look(self) -> Looks:
        """See :class:`odsg_lightning.explainers.base.LookingExplainer`."""
        return partial(gradient_looks, engine=self.engine, precision=self.precision, trim=self.trim)

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
        """See :class:`odsg_lightning.explainers.base.Explainer`; without noise."""
        return smoothgrad(
            detector,
            image,
            reference,
            indices,
            generator=generator,
            n_samples=1,
            sigma=0.0,
            match_iou=match_iou,
            look=self.look,
            on_sample=on_sample,
        )
