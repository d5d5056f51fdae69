"""ODAM: gradient times activation, cell by cell, for each of the five numbers.

Zhao & Chan, "ODAM: Gradient-based Instance-Specific Visual Explanations for Object Detection", ICLR 2023. Of a class
score it is the map of HiResCAM (Draelos & Carin, 2020), and of DetGrad-CAM (Saha et al., CVPR Workshops 2020) as Rao et
al. (CVPR 2022) describe it, gradient times input at the final layer; whether its authors end with a ReLU could not be
established.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from odsg_lightning.errors import UserInputError
from odsg_lightning.explainers.features import FeatureExplainer
from odsg_lightning.names import PARAMETERS

Sign = Literal["positive", "abs"]


@dataclass(frozen=True)
class ODAM(FeatureExplainer):
    r""":math:`\mathrm{ReLU}(\sum_k g_k A_k)`, brought to 0 to 1, as published; or the magnitude of the sum.

    Attributes:
        sign: ``"positive"`` keeps what *increases* the number, which for a coordinate is evidence that the edge lies
            farther to the right or the bottom; ``"abs"`` keeps what moves it either way.

    Raises:
        UserInputError: a sign of another name.

    Example:
        >>> ODAM().parameters
        ('x_min', 'y_min', 'x_max', 'y_max', 'score')
    """

    parameters: tuple[str, ...] = PARAMETERS
    sign: Sign = "positive"

    def __post_init__(self) -> None:
        """Refuse unknown names."""
        super().__post_init__()
        if self.sign not in get_args(Sign):
            raise UserInputError(f"Expected argument `sign` to be one of {get_args(Sign)}, but got {self.sign!r}.")

    def cells(self, activation: Tensor, gradient: Tensor, box: Tensor) -> Tensor:
        """See :func:`odam`."""
        return odam(activation, gradient, self.sign)


def odam(activation: Tensor, gradient: Tensor, sign: Sign = "positive") -> Tensor:
    """Return ODAM's map ``[h, w]``, not negative.

    Args:
        activation: ``[C, h, w]``.
        gradient: ``[C, h, w]`` d number / d activation.
        sign: see :class:`ODAM`.

    Example:
        >>> import torch
        >>> odam(torch.tensor([[[1.0, 2.0]], [[3.0, 1.0]]]), torch.tensor([[[4.0, 0.0]], [[-1.0, -1.0]]]))
        tensor([[1., 0.]])
    """
    total = (gradient * activation).sum(dim=0)
    return total.relu() if sign == "positive" else total.abs()
