"""LRP of one detection, and contrastive LRP against its strongest other class.

The rules are in :mod:`odsg_lightning.explainers.relevance`. Contrastive: Karasmanoglou, Antonakakis & Zervakis,
"Heatmap-based Explanation of YOLOv5 Object Detection with Layer-wise Relevance Propagation", IEEE IST 2022; it is not
the contrastive relevance propagation of Tsunakawa et al. (2019).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from odsg_lightning.errors import UserInputError
from odsg_lightning.explainers.candidate import CandidateExplainer, check_parameters
from odsg_lightning.explainers.relevance import RelevanceMode
from odsg_lightning.names import BOX_PARAMETERS, PARAMETERS
from odsg_lightning.saliency.protocol import FeatureDetector

Convolution = Literal["zplus", "epsilon"]
First = Literal["flat", "epsilon"]

_SCORE = len(BOX_PARAMETERS)
_CLIP = 0.98


@dataclass(frozen=True)
class LRP(CandidateExplainer):
    """The positive part of the relevance of each pixel, summed over the channels.

    A class logit starts with a relevance of 1. Maps of the box are experimental: a coordinate starts with the product
    of each regression delta and its derivative by it, and the sign of relevance is no evidence for or against it.

    Attributes:
        parameters: which maps are made.
        convolution: ``"zplus"`` or ``"epsilon"``, the rule of all convolutions but the first.
        first: ``"flat"`` or ``"epsilon"``, the rule of the first.
        epsilon: of the epsilon rule.

    Raises:
        UserInputError: a value out of range, or a name that is none of these.
    """

    parameters: tuple[str, ...] = ("score",)
    convolution: Convolution = "zplus"
    first: First = "flat"
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        check_parameters(self.parameters)
        _check_rules(self.convolution, self.first, self.epsilon)

    def maps(self, outputs: FeatureDetector, image: Tensor, rows: Sequence[int], boxes: Tensor) -> list[list[Tensor]]:
        """See :meth:`odsg_lightning.explainers.candidate.CandidateExplainer.maps`."""
        mode = RelevanceMode(self.convolution, self.first, self.epsilon)
        found = relevance(outputs, image, rows, self.parameters, mode, flat=self.first == "flat")
        return [[_defined(one.relu()) for one in maps] for maps in found]


@dataclass(frozen=True)
class ContrastiveLRP(CandidateExplainer):
    """What speaks for the class of a detection and not for the strongest other class of the same anchor or region.

    Both logits start with the probability of their class, and each relevance is cut off at its 98 % quantile. The map
    is the positive part of half of their difference.

    Attributes:
        convolution: see :class:`LRP`.
        first: see there.
        epsilon: see there.

    Raises:
        UserInputError: a value out of range, or a name that is none of these.
    """

    convolution: Convolution = "zplus"
    first: First = "flat"
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        _check_rules(self.convolution, self.first, self.epsilon)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The score's: the edges of a box have no rival."""
        return ("score",)

    def maps(self, outputs: FeatureDetector, image: Tensor, rows: Sequence[int], boxes: Tensor) -> list[list[Tensor]]:
        """See :meth:`odsg_lightning.explainers.candidate.CandidateExplainer.maps`.

        Raises:
            UserInputError: a detector of one class.
        """
        sides = []
        for asked in (outputs, outputs.rivals(image)):
            mode = RelevanceMode(self.convolution, self.first, self.epsilon)
            maps = relevance(asked, image, rows, self.parameters, mode, flat=self.first == "flat")
            probabilities = asked.probabilities(image)
            sides.append([of_object[0] * probabilities[row] for of_object, row in zip(maps, rows, strict=True)])
        return [[_defined(contrast(own, other).relu())] for own, other in zip(*sides, strict=True)]


def relevance(
    outputs: FeatureDetector,
    image: Tensor,
    rows: Sequence[int],
    parameters: Sequence[str],
    mode: RelevanceMode,
    *,
    flat: bool,
) -> list[Tensor]:
    """Return the relevance ``[P, H, W]`` of each candidate's numbers, signed, summed over the channels.

    Args:
        outputs: detector of fixed candidates.
        image: ``[3, H, W]``.
        rows: which of the candidates.
        parameters: which of their numbers. A score starts with 1.
        mode: the rules.
        flat: whether that of the first convolution is the flat rule.
    """
    numbers = [PARAMETERS.index(name) for name in parameters]
    with torch.no_grad():
        (values,) = outputs.detect([image])
    with mode:
        looks = outputs.features(image, "input")
    found = []
    for row, [feature] in zip(rows, looks.of_candidates(rows, numbers), strict=True):
        maps = feature.gradients if flat else feature.activation * feature.gradients
        starts = torch.stack([values.scores[row] if number == _SCORE else maps.new_ones(()) for number in numbers])
        found.append((maps.sum(dim=1) / starts[:, None, None])[:, : image.shape[1], : image.shape[2]])
    return found


def contrast(own: Tensor, other: Tensor) -> Tensor:
    """Return half of the difference of two relevance maps ``[H, W]``, each cut off at its 98 % quantile."""
    cut = [one.clamp(max=one.flatten().quantile(_CLIP)) for one in (own, other)]
    return 0.5 * cut[0] - 0.5 * cut[1]


def _defined(values: Tensor) -> Tensor:
    return values.where(values.isfinite().all() & (values > 0).any(), torch.nan)


def _check_rules(convolution: str, first: str, epsilon: float) -> None:
    for name, value, allowed in (
        ("convolution", convolution, get_args(Convolution)),
        ("first", first, get_args(First)),
    ):
        if value not in allowed:
            raise UserInputError(f"Expected argument `{name}` to be one of {allowed}, but got {value!r}.")
    if not 0 <= epsilon < float("inf"):
        raise UserInputError(f"Expected argument `epsilon` to be a finite number, 0 or more, but got {epsilon!r}.")
