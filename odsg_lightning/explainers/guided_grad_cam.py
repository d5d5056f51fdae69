"""Guided Grad-CAM: Grad-CAM's map times guided backpropagation.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odsg_lightning.explainers.features import normalised
from odsg_lightning.explainers.grad_cam import GradCAM
from odsg_lightning.explainers.guided_relu import GuidedReLU
from odsg_lightning.names import PARAMETERS
from odsg_lightning.saliency.protocol import Detector, FeatureDetector


@dataclass(frozen=True)
class GuidedGradCAM(GradCAM):
    """The largest magnitude of guided backpropagation's three channels, times Grad-CAM, brought to 0 to 1.

    For reference only: guided backpropagation hardly depends on the weights of the upper layers, and fails the sanity
    checks of Adebayo et al. (2018). It shows edges of the picture.
    """

    def maps(self, outputs: FeatureDetector, image: Tensor, rows: Sequence[int], boxes: Tensor) -> list[list[Tensor]]:
        """See :meth:`odsg_lightning.explainers.candidate.CandidateExplainer.maps`; each map is 0 to 1."""
        coarse = super().maps(outputs, image, rows, boxes)
        fine = guided_backprop(outputs, image, rows, self.parameters)
        return [
            [normalised(cam * guided) for cam, guided in zip(cams, of_object, strict=True)]
            for cams, of_object in zip(coarse, fine, strict=True)
        ]


def guided_backprop(
    detector: Detector, image: Tensor, indices: Sequence[int], parameters: Sequence[str] = ("score",)
) -> list[Tensor]:
    """Return guided backpropagation's maps ``[P, H, W]`` of each index, not negative.

    Args:
        detector: of fixed candidates.
        image: ``[3, H, W]``.
        indices: of its candidates.
        parameters: the numbers that are explained.
    """
    with torch.inference_mode(False), torch.enable_grad():
        pixels = image.detach().clone().requires_grad_()
        with GuidedReLU():
            (found,) = detector.detect([pixels])
        numbers = [PARAMETERS.index(name) for name in parameters]
        maps = []
        for index in indices:
            outputs = [found.number(index, number) for number in numbers]
            gradients = [torch.autograd.grad(output, pixels, retain_graph=True)[0] for output in outputs]
            maps.append(torch.stack([gradient.abs().amax(dim=0) for gradient in gradients]))
    return maps
