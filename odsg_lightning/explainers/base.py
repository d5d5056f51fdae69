"""What every explainer offers."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from odsg_lightning.errors import UserInputError
from odsg_lightning.saliency.protocol import Detector, Looks
from odsg_lightning.types import Detections, ObjectSaliency


class Explainer(Protocol):
    """Makes maps of each detection, one for each of the five numbers that a detector returned, or for some of them."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Which of the five maps it gives; the others are NaN throughout."""
        ...

    @property
    def samples(self) -> int:
        """How often it looks at a changed copy of an image, at most; each is reported to ``on_sample``."""
        ...

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
        """Explain detections of one image.

        Args:
            detector: see :class:`odsg_lightning.saliency.protocol.Detector`.
            image: ``[3, H, W]`` RGB, float, 0 to 255.
            reference: detections of the clean image.
            indices: which of them to explain.
            generator: source of the noise.
            match_iou: see :func:`odsg_lightning.saliency.smoothgrad.smoothgrad`.
            on_sample: called :attr:`samples` times.

        Returns:
            One record per index, in order; a map is NaN throughout where it is undefined.
        """
        ...


class LookingExplainer(Explainer, Protocol):
    """An explainer that needs one look at an image, and so can be averaged over noisy copies of it."""

    @property
    def look(self) -> Looks:
        """What it sees of images."""
        ...


def check_gives(explainer: Explainer, parameters: Sequence[str]) -> None:
    """Refuse an explainer that does not give some maps.

    Args:
        explainer: to be asked.
        parameters: whose maps are needed, of :data:`odsg_lightning.names.PARAMETERS`.

    Raises:
        UserInputError: says which it gives.
    """
    missing = [name for name in parameters if name not in explainer.parameters]
    if missing:
        raise UserInputError(
            f"Expected an explainer that gives maps of {', '.join(missing)}, but {type(explainer).__name__} gives "
            f"those of {', '.join(explainer.parameters)} alone: 'smoothgrad', 'gradient' and 'odam' give all five."
        )
