"""LayerCAM of one detection.

Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization", IEEE TIP 2021.
"""

from dataclasses import dataclass

from torch import Tensor

from odsg_lightning.explainers.features import FeatureExplainer


@dataclass(frozen=True)
class LayerCAM(FeatureExplainer):
    r""":math:`\mathrm{ReLU}(\sum_k \mathrm{ReLU}(g_k) A_k)`, brought to 0 to 1.

    With ``layer="all"`` the maximum over the layers is taken, each brought to 0 to 1, as common detector toolkits do;
    the paper scales low layers by a hyperbolic tangent instead.
    """

    def cells(self, activation: Tensor, gradient: Tensor, box: Tensor) -> Tensor:
        """See :func:`layer_cam`."""
        return layer_cam(activation, gradient)


def layer_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Return LayerCAM's map ``[h, w]``, not negative.

    Args:
        activation: ``[C, h, w]``.
        gradient: ``[C, h, w]`` d number / d activation.

    Example:
        >>> import torch
        >>> layer_cam(torch.tensor([[[1.0, 2.0]], [[3.0, 1.0]]]), torch.tensor([[[4.0, -1.0]], [[-1.0, 0.5]]]))
        tensor([[4.0000, 0.5000]])
    """
    return (gradient.relu() * activation).sum(dim=0).relu()
