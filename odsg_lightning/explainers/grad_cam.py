"""Grad-CAM of one detection.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.
"""

from dataclasses import dataclass

from torch import Tensor

from odsg_lightning.explainers.features import FeatureExplainer


@dataclass(frozen=True)
class GradCAM(FeatureExplainer):
    r"""Channels weighted by their mean gradient: :math:`\mathrm{ReLU}(\sum_k \overline{g_k} A_k)`, brought to 0 to 1.

    The mean goes over the whole layer, of a gradient that lives in a few cells: the map lights up every object of the
    class at that level. :class:`~odsg_lightning.explainers.odam.ODAM` and
    :class:`~odsg_lightning.explainers.ss_grad_cam.SSGradCAM` were made to mend that. Maps of the box can be asked for;
    ODAM's are better.
    """

    def cells(self, activation: Tensor, gradient: Tensor, box: Tensor) -> Tensor:
        """See :func:`grad_cam`."""
        return grad_cam(activation, gradient)


def grad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Return Grad-CAM's map ``[h, w]``, not negative.

    Args:
        activation: ``[C, h, w]``.
        gradient: ``[C, h, w]`` d number / d activation.

    Example:
        >>> import torch
        >>> grad_cam(torch.tensor([[[1.0, 2.0]], [[3.0, 0.0]]]), torch.tensor([[[4.0, 0.0]], [[-1.0, -1.0]]]))
        tensor([[0., 4.]])
    """
    return (gradient.mean(dim=(1, 2), keepdim=True) * activation).sum(dim=0).relu()
