"""Controls: maps that know nothing of a detector's weights, so that a measure that they do well in says little."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from odsg_lightning.names import PARAMETERS
from odsg_lightning.saliency.protocol import Detector
from odsg_lightning.types import Detections, ObjectSaliency

_CELLS = 16


class _Control(ABC):
    """What both have in common: all five maps, one look, at anything but the detector."""

    @abstractmethod
    def maps(self, image: Tensor, boxes: Tensor, generator: torch.Generator) -> Tensor:
        """Return maps ``[K, 5, H, W]`` of boxes ``[K, 4]`` in an image ``[3, H, W]``."""
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
        """See :class:`odsg_lightning.explainers.base.Explainer`; the detector is not asked."""
        maps = self.maps(image, reference.boxes[list(indices)], generator)
        on_sample()
        return [ObjectSaliency(of_object, 1, 1) for of_object in maps]

    @property
    def parameters(self) -> tuple[str, ...]:
        """All five."""
        return PARAMETERS

    @property
    def samples(self) -> int:
        """One."""
        return 1


@dataclass(frozen=True)
class RandomMap(_Control):
    """Uniform random values of 16 x 16 cells, brought to the image's size bilinearly; each map by itself.

    As smooth as the map of a layer, and as wrong as can be.
    """

    def maps(self, image: Tensor, boxes: Tensor, generator: torch.Generator) -> Tensor:
        """See above.

        Example:
            >>> maps = RandomMap().maps(torch.zeros(3, 32, 48), torch.zeros(1, 4), torch.Generator())
            >>> maps.shape, bool((maps >= 0).all())
            (torch.Size([1, 5, 32, 48]), True)
        """
        cells = torch.rand(len(boxes), len(PARAMETERS), _CELLS, _CELLS, generator=generator)
        size = (image.shape[1], image.shape[2])
        return functional.interpolate(cells, size, mode="bilinear", align_corners=False).to(image)


@dataclass(frozen=True)
class CentreMap(_Control):
    r"""A Gaussian at the centre of the detected box, the same for all five numbers.

    Its standard deviation is a share of the box's width along x and of its height along y.

    Attributes:
        sigma: that share.
    """

    sigma: float = 0.25

    def maps(self, image: Tensor, boxes: Tensor, generator: torch.Generator) -> Tensor:
        """See above.

        Example:
            >>> box, image = torch.tensor([[0.0, 0, 3, 1]]), torch.zeros(3, 1, 3)
            >>> CentreMap(sigma=0.5).maps(image, box, torch.Generator())[0, 4]  # a pixel is 2/3 of an sd of 1.5
            tensor([[0.8007, 1.0000, 0.8007]])
        """
        maps = []
        for x_min, y_min, x_max, y_max in boxes.tolist():
            columns = _bell(image.shape[2], x_min, x_max, self.sigma)
            rows = _bell(image.shape[1], y_min, y_max, self.sigma)
            maps.append((rows[:, None] * columns).expand(len(PARAMETERS), -1, -1).to(image))
        return torch.stack(maps) if maps else image.new_zeros(0, len(PARAMETERS), *image.shape[1:])


def _bell(length: int, low: float, high: float, sigma: float) -> Tensor:
    """Return a Gaussian ``[length]`` of the pixels' centres; of a box without extent, half a pixel wide."""
    middles = torch.arange(length, dtype=torch.float64) + 0.5
    deviation = max(sigma * (high - low), 0.5)
    return (-0.5 * ((middles - (low + high) / 2) / deviation) ** 2).exp()
