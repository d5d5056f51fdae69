"""Guided Grad-CAM: Grad-CAM's map times guided backpropagation.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odsg_lightning.explainers.features import fixed_candidates, normalised, on_five
from odsg_lightning.explainers.grad_cam import GradCAM
from odsg_lightning.explainers.guided_relu import GuidedReLU
from odsg_lightning.names import BOX_PARAMETERS, PARAMETERS
from odsg_lightning.saliency.protocol import Detector
from odsg_lightning.types import Detections, ObjectSaliency


@dataclass(frozen=True)
class GuidedGradCAM(GradCAM):
    """The largest magnitude of guided backpropagation's three channels, times Grad-CAM, brought to 0 to 1.

    For reference only: guided backpropagation hardly depends on the weights of the upper layers, and fails the sanity
    checks of Adebayo et al. (2018). It shows edges of the picture.
    """

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
        """See :class:`odsg_lightning.explainers.base.Explainer`; without noise."""
        if not indices:
            return []
        outputs, rows = fixed_candidates(detector, image, reference, indices)
        coarse = self.maps(outputs, image, rows, reference.boxes[list(indices)])
        fine = guided_backprop(outputs, image, rows, self.parameters)
        on_sample()
        return [
            on_five([normalised(cam * guided) for cam, guided in zip(cams, of_object, strict=True)], self.parameters)
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
            outputs = [
                found.scores[index] if number == len(BOX_PARAMETERS) else found.boxes[index, number]
                for number in numbers
            ]
            gradients = [torch.autograd.grad(output, pixels, retain_graph=True)[0] for output in outputs]
            maps.append(torch.stack([gradient.abs().amax(dim=0) for gradient in gradients]))
    return maps
