"""Explainers that look at features between image and head: what all class activation maps have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from odsg_lightning.errors import UserInputError
from odsg_lightning.names import PARAMETERS
from odsg_lightning.saliency.matching import match_one_to_one
from odsg_lightning.saliency.protocol import CandidateDetector, Detector, FeatureDetector
from odsg_lightning.types import Detections, Feature, ObjectSaliency

_SAME = 0.9
"""Least IoU of a detection with itself, found once more in the same image: rounding may order them otherwise."""


@dataclass(frozen=True)
class FeatureExplainer(ABC):
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

    @property
    def samples(self) -> int:
        """One look."""
        return 1

    @abstractmethod
    def cells(self, activation: Tensor, gradient: Tensor, box: Tensor) -> Tensor:
        """Return the map ``[h, w]``, not negative, of one number at one layer.

        Args:
            activation: ``[C, h, w]``.
            gradient: ``[C, h, w]`` d number / d activation.
            box: ``[4]`` XYXY of the object, in cells of this layer.
        """
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
        """See :class:`odsg_lightning.explainers.base.Explainer`; without noise.

        Raises:
            UserInputError: an unknown layer, or a detector whose features cannot be found.
        """
        if not indices:
            return []
        outputs, rows = fixed_candidates(detector, image, reference, indices)
        found = self.maps(outputs, image, rows, reference.boxes[list(indices)])
        on_sample()
        return [on_five(of_object, self.parameters) for of_object in found]

    def maps(self, outputs: FeatureDetector, image: Tensor, rows: Sequence[int], boxes: Tensor) -> list[list[Tensor]]:
        """Return the maps ``[H, W]``, 0 to 1, of each candidate's :attr:`parameters`.

        Args:
            outputs: the detector of fixed candidates.
            image: ``[3, H, W]``.
            rows: which of the candidates.
            boxes: ``[K, 4]`` XYXY of their objects, pixels of the image.

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


def check_parameters(parameters: Sequence[str]) -> None:
    """Refuse what is none of the five numbers.

    Raises:
        UserInputError: lists them.
    """
    names = [parameters] if isinstance(parameters, str) else list(parameters)
    if isinstance(parameters, str) or not names or len(set(names)) < len(names) or not set(names) <= set(PARAMETERS):
        raise UserInputError(
            f"Expected argument `parameters` to name some of {PARAMETERS}, each once, but got {parameters!r}."
        )


def fixed_candidates(
    detector: Detector, image: Tensor, reference: Detections, indices: Sequence[int]
) -> tuple[FeatureDetector, list[int]]:
    """Return a detector whose features can be looked at, and which of its candidates stands for each detection.

    Args:
        detector: one of fixed candidates, or one whose detections can be followed to theirs.
        image: ``[3, H, W]``.
        reference: detections of this image.
        indices: which of them are explained.

    Raises:
        UserInputError: a detector whose features cannot be found.
    """
    if isinstance(detector, FeatureDetector):
        return detector, list(indices)
    if isinstance(detector, CandidateDetector):
        found, candidates = detector.candidates_of_detections(image)
        asked = reference[list(indices)]
        matches, _ = match_one_to_one(asked.boxes, asked.labels, found.boxes, found.labels, _SAME)
        if -1 in matches:
            raise RuntimeError("Expected to find the reference's detections in the same image again, but some are not.")
        outputs = detector.outputs_of(candidates[matches])
        if isinstance(outputs, FeatureDetector):
            return outputs, list(range(len(matches)))
    raise UserInputError(
        "Expected a detector whose features can be looked at (Detectron2's RetinaNet or Faster R-CNN, or one with the "
        f"methods of odsg_lightning.saliency.protocol.FeatureDetector), but {type(detector).__name__} has none: the "
        "explainers 'smoothgrad', 'gradient' and 'd_rise' need none."
    )


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


def on_five(
    maps: Sequence[Tensor], parameters: tuple[str, ...], matched_samples: int = 1, n_samples: int = 1
) -> ObjectSaliency:
    """Return maps ``[H, W]`` of some numbers among those of all five."""
    five = maps[0].new_full((len(PARAMETERS), *maps[0].shape), torch.nan)
    for name, of_number in zip(parameters, maps, strict=True):
        five[PARAMETERS.index(name)] = of_number
    return ObjectSaliency(five, matched_samples, n_samples, parameters)
