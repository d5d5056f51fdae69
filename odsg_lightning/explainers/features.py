"""Explainers that look at features between image and head: what all class activation maps have in common."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from odsg_lightning.errors import UserInputError
from odsg_lightning.explainers.candidate import CandidateExplainer, check_parameters
from odsg_lightning.names import PARAMETERS
from odsg_lightning.saliency.protocol import FeatureDetector
from odsg_lightning.types import Feature


@dataclass(frozen=True)
class FeatureExplainer(CandidateExplainer):
    """A map of cells for each layer and number, brought to the size of the image and to the range 0 to 1.

    What is explained are the numbers of a fixed anchor or region of interest: those that the detector's target names,
    or, of a detection, logit and unclipped box of the anchor or region that it came from. So a coordinate that the
    border clips has a map.

    Attributes:
        layer: ``"level"``, the level of the pyramid that predicts the candidate; ``"all"``, the maximum over that level
            and the stages of the network below, each brought to 0 to 1; or the name of a layer, such as ``"res5"``.
        parameters: which maps are made.

    Raises:
        UserInputError: no parameter, one of another name, or a layer that is no name.
    """

    layer: str = "level"
    parameters: tuple[str, ...] = ("score",)

    def __post_init__(self) -> None:
        """Refuse what is no layer or parameter."""
        if not isinstance(self.layer, str) or not self.layer:
            raise UserInputError(f"Expected argument `layer` to be the name of a layer, but got {self.layer!r}.")
        check_parameters(self.parameters)

    @abstractmethod
    def cells(self, activation: Tensor, gradient: Tensor, box: Tensor) -> Tensor:
        """Return the map ``[h, w]``, not negative, of one number at one layer.

        Args:
            activation: ``[C, h, w]``.
            gradient: ``[C, h, w]`` d number / d activation.
            box: ``[4]`` XYXY of the object, in cells of this layer.
        """
        ...

    def maps(self, outputs: FeatureDetector, image: Tensor, rows: Sequence[int], boxes: Tensor) -> list[list[Tensor]]:
        """See :meth:`odsg_lightning.explainers.candidate.CandidateExplainer.maps`; each map is 0 to 1.

        Raises:
            UserInputError: an unknown layer.
        """
        numbers = [PARAMETERS.index(name) for name in self.parameters]
        looks = outputs.features(image, self.layer).of_candidates(rows, numbers)
        size = (image.shape[1], image.shape[2])
        return [
            [self._map(features, position, box, size) for position in range(len(numbers))]
            for features, box in zip(looks, boxes, strict=True)
        ]

    def _map(self, features: list[Feature], position: int, box: Tensor, size: tuple[int, int]) -> Tensor:
        layers = []
        for feature in features:
            cells = self.cells(feature.activation, feature.gradients[position], box / feature.stride)
            layers.append(normalised(upsampled(cells, feature.stride, size)))
        best = torch.stack(layers).nan_to_num(-torch.inf).amax(dim=0)  # a layer that says nothing hides no other
        return best.where(best.isfinite(), torch.nan)


def upsampled(cells: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Return a map of cells ``[h, w]`` as one of pixels ``[H, W]``: bilinear, without what lies in the padding.

    Example:
        >>> upsampled(torch.tensor([[0.0, 1.0]]), 2, (2, 3))
        tensor([[0.0000, 0.2500, 0.7500],
                [0.0000, 0.2500, 0.7500]])
    """
    height, width = stride * cells.shape[0], stride * cells.shape[1]
    full = functional.interpolate(cells[None, None], (height, width), mode="bilinear", align_corners=False)
    return full[0, 0, : size[0], : size[1]]


def normalised(values: Tensor) -> Tensor:
    """Return a map brought to 0 to 1, NaN throughout where it is the same everywhere or not finite.

    Example:
        >>> normalised(torch.tensor([[1.0, 2.0, 5.0]])), normalised(torch.ones(1, 2))
        (tensor([[0.0000, 0.2500, 1.0000]]), tensor([[nan, nan]]))
    """
    least, most = values.amin(), values.amax()
    return (values - least) / torch.where(most > least, most - least, torch.nan)
