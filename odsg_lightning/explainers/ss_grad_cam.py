"""SSGrad-CAM and SSGrad-CAM++: Grad-CAM with a spatial sensitivity, which makes it a map of one object.

Yamauchi & Ishikawa, "Spatial Sensitive Grad-CAM", ICIP 2022; Yamauchi, "Spatial Sensitive Grad-CAM++: Improved visual
explanation for object detectors via weighted combination of gradient map", CVPR Workshops 2024.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from odsg_lightning.errors import UserInputError
from odsg_lightning.explainers.features import FeatureExplainer

Instance = Literal["box", "cell"]


@dataclass(frozen=True)
class SSGradCAM(FeatureExplainer):
    r""":math:`\mathrm{ReLU}(\sum_k \overline{g_k} S_k A_k)`, :math:`S_k = |g_k| / \max |g_k|`, brought to 0 to 1."""

    def cells(self, activation: Tensor, gradient: Tensor, box: Tensor) -> Tensor:
        """See :func:`ss_grad_cam`."""
        return ss_grad_cam(activation, gradient)


@dataclass(frozen=True)
class SSGradCAMPlusPlus(FeatureExplainer):
    """The same with the weights of Grad-CAM++, taken over the instance; the published form of the CVPR workshop paper.

    Public implementations differ: some take one maximum over all channels, and leave the sensitivity out of the sum.

    Attributes:
        instance: mask of the object in the weights: ``"box"``, the cells that its box touches, or ``"cell"``, the one
            that holds the box's centre.

    Raises:
        UserInputError: an instance of another name.
    """

    instance: Instance = "box"

    def __post_init__(self) -> None:
        """Refuse unknown names."""
        super().__post_init__()
        if self.instance not in get_args(Instance):
            raise UserInputError(
                f"Expected argument `instance` to be one of {get_args(Instance)}, but got {self.instance!r}."
            )

    def cells(self, activation: Tensor, gradient: Tensor, box: Tensor) -> Tensor:
        """See :func:`ss_grad_cam_plus_plus`."""
        mask = instance_mask(box, (activation.shape[1], activation.shape[2]), self.instance)
        return ss_grad_cam_plus_plus(activation, gradient, mask)


def ss_grad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Return SSGrad-CAM's map ``[h, w]``, not negative.

    Args:
        activation: ``[C, h, w]``.
        gradient: ``[C, h, w]`` d number / d activation.

    Example:
        >>> ss_grad_cam(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[4.0, 2.0]]]))  # 3 * (1, 1/2) * (1, 2)
        tensor([[3., 3.]])
    """
    weights = gradient.mean(dim=(1, 2), keepdim=True)
    return (weights * sensitivity(gradient) * activation).sum(dim=0).relu()


def ss_grad_cam_plus_plus(activation: Tensor, gradient: Tensor, instance: Tensor) -> Tensor:
    r"""Return SSGrad-CAM++'s map ``[h, w]``, not negative.

    :math:`\mathrm{ReLU}(\sum_k w_k S_k A_k)`, :math:`w_k = \sum \alpha_k \mathrm{ReLU}(g_k)`, :math:`\alpha_k = g_k^2 /
    (2 g_k^2 M + (\sum A_k M) g_k^3)`, zero where the denominator is.

    Args:
        activation: ``[C, h, w]``.
        gradient: ``[C, h, w]`` d number / d activation.
        instance: ``[h, w]`` bool, the cells of the object.
    """
    mask = instance.to(gradient)
    total = (activation * mask).sum(dim=(1, 2), keepdim=True)
    denominator = 2 * mask + total * gradient  # both sides divided by the squared gradient
    usable = (gradient != 0) & (denominator != 0)
    alpha = torch.where(usable, 1 / denominator.where(usable, 1), 0)
    weights = (alpha * gradient.relu()).sum(dim=(1, 2), keepdim=True)
    return (weights * sensitivity(gradient) * activation).sum(dim=0).relu()


def sensitivity(gradient: Tensor) -> Tensor:
    """Return each channel's magnitude ``[C, h, w]`` over its maximum; zero for a channel that is zero everywhere."""
    magnitude = gradient.abs()
    most = magnitude.amax(dim=(1, 2), keepdim=True)
    return magnitude / most.where(most > 0, 1)


def instance_mask(box: Tensor, size: tuple[int, int], instance: Instance) -> Tensor:
    """Return the cells ``[h, w]`` bool of a box ``[4]`` XYXY in cells; at least one, the nearest, if it lies outside.

    Example:
        >>> instance_mask(torch.tensor([0.5, 0.0, 2.0, 1.0]), (2, 3), "box").tolist()
        [[True, True, False], [False, False, False]]
    """
    height, width = size
    x_min, y_min, x_max, y_max = box.tolist()
    if instance == "cell":
        x_min = x_max = (x_min + x_max) / 2
        y_min = y_max = (y_min + y_max) / 2
    columns, rows = _touched(x_min, x_max, width), _touched(y_min, y_max, height)
    return (rows[:, None] & columns[None]).to(box.device)


def _touched(first: float, last: float, count: int) -> Tensor:
    """Return which of some cells in a row an interval overlaps, or, without extent, lies in."""
    first, last = (min(max(end, 0.0), count - 1e-6) for end in (first, last))
    start = torch.arange(count)
    return (start < max(last, first + 1e-6)) & (start + 1 > first)
