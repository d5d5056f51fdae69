"""Explainers of a fixed anchor or region of interest: what all that look into a network have in common."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from odsg_lightning.errors import UserInputError
from odsg_lightning.names import PARAMETERS
from odsg_lightning.saliency.matching import match_one_to_one
from odsg_lightning.saliency.protocol import CandidateDetector, Detector, FeatureDetector
from odsg_lightning.types import Detections, ObjectSaliency

_SAME = 0.9
"""Least IoU of a detection with itself, found once more in the same image: rounding may order them otherwise."""


class CandidateExplainer(ABC):
    """One look, without noise, at the candidate that the detector's target names or that a detection came from."""

    @property
    @abstractmethod
    def parameters(self) -> tuple[str, ...]:
        """Which maps are made."""
        ...

    @property
    def samples(self) -> int:
        """One look."""
        return 1

    @abstractmethod
    def maps(self, outputs: FeatureDetector, image: Tensor, rows: Sequence[int], boxes: Tensor) -> list[list[Tensor]]:
        """Return the maps ``[H, W]``, not negative, of each candidate's :attr:`parameters`.

        Args:
            outputs: the detector of fixed candidates.
            image: ``[3, H, W]``.
            rows: which of the candidates.
            boxes: ``[K, 4]`` XYXY of their objects, pixels of the image.
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


def on_five(
    maps: Sequence[Tensor], parameters: tuple[str, ...], matched_samples: int = 1, n_samples: int = 1
) -> ObjectSaliency:
    """Return maps ``[H, W]`` of some numbers among those of all five."""
    five = maps[0].new_full((len(PARAMETERS), *maps[0].shape), torch.nan)
    for name, of_number in zip(parameters, maps, strict=True):
        five[PARAMETERS.index(name)] = of_number
    return ObjectSaliency(five, matched_samples, n_samples, parameters)
