"""The gradients of an adapter against finite differences of what it detects."""

import torch
from torch import Tensor

from odsg_lightning.saliency.gradients import linearize
from odsg_lightning.saliency.protocol import Detector


def gradients_and_differences(
    detector: Detector, image: Tensor, index: int, step: float = 1e-2, pixels: int = 3
) -> tuple[Tensor, Tensor]:
    """Return d (five numbers) / d pixel of one detection, ``[5, pixels]`` each: by the graph, and by differences.

    Args:
        detector: of double precision, which detects the same objects in the same order nearby.
        image: ``[3, H, W]`` double.
        index: of the detection.
        step: in grey levels, up and down.
        pixels: how many, those with the largest gradients of all.
    """

    def numbers(changed: Tensor) -> Tensor:
        with torch.no_grad():
            (found,) = detector.detect([changed])
        return found.parameters[index]

    (local,) = linearize(detector, image).gradients([index])
    largest = local.values.abs().div(local.values.abs().amax((1, 2, 3), keepdim=True)).sum(0).flatten().topk(pixels)
    differences = []
    for pixel in largest.indices:
        changed = torch.zeros_like(image)
        changed.view(-1)[pixel] = step
        differences.append((numbers(image + changed) - numbers(image - changed)) / (2 * step))
    return local.values.flatten(1)[:, largest.indices], torch.stack(differences, dim=1)


def assert_equals_differences(
    detector: Detector, image: Tensor, index: int, rel: float = 1e-4, **settings: float
) -> None:
    """Compare all five numbers of a detection, none of which may be without a gradient."""
    gradients, differences = gradients_and_differences(detector, image, index, **settings)
    assert (gradients.abs().amax(dim=1) > 0).all()
    scale = gradients.abs().amax(dim=1, keepdim=True)
    assert float(((gradients - differences) / scale).abs().max()) < rel
