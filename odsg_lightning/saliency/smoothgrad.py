"""ODSmoothGrad: one saliency map for each of the five numbers of each detected object.

Gwon & Howell, "ODSmoothGrad: Generating Saliency Maps for Object Detectors", CVPR Workshops 2023, the method that
differentiates the detector's output tensors.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from odsg_lightning.saliency.gradients import linearize
from odsg_lightning.saliency.matching import match_one_to_one
from odsg_lightning.saliency.noise import noisy_images
from odsg_lightning.types import PARAMETERS, Detections, ObjectSaliency

if TYPE_CHECKING:
    from odsg_lightning.detectors.protocol import Detector


def smoothgrad(
    detector: "Detector",
    image: Tensor,
    reference: Detections,
    indices: Sequence[int],
    *,
    generator: torch.Generator,
    n_samples: int = 20,
    sigma: float = 0.05,
    match_iou: float = 0.7,
    on_pass: Callable[[], None] = lambda: None,
) -> list[ObjectSaliency]:
    r"""Explain detections of one image.

    In each noisy pass the detections are matched one to one to the reference (same class, IoU at least
    ``match_iou``). The map of parameter :math:`p` is the mean over the *matched* passes
    :math:`\frac{1}{|M|} \sum_{i \in M} \max_c |\partial p_i / \partial x_c|`. ``n_samples=1, sigma=0`` is the plain
    gradient.

    A map is undefined, and NaN throughout, if the object was found again in no pass, or if the map is zero
    everywhere (a coordinate clipped at the image border, a saturated score) or not finite.

    Args:
        detector: see :class:`odsg_lightning.detectors.protocol.Detector`.
        image: ``[3, H, W]`` RGB, float, 0 to 255.
        reference: detections of the clean image.
        indices: which of them to explain.
        generator: source of the noise; the same state gives the same bits on the same machine.
        n_samples: number of noisy passes, at least 1.
        sigma: standard deviation of the noise relative to the pixel range, not negative.
        match_iou: least IoU between a noisy detection and the reference.
        on_pass: called after each noisy pass; there is none without indices.

    Returns:
        One record per index, in order.

    Raises:
        ValueError: ``n_samples`` or ``sigma`` out of range.
    """
    if n_samples < 1:
        raise ValueError(f"Expected argument `n_samples` to be at least 1, but got {n_samples}.")
    if not 0 <= sigma < float("inf"):
        raise ValueError(f"Expected argument `sigma` to be 0 or more (relative to the pixel range), but got {sigma}.")
    if not indices:
        return []
    sums = [torch.zeros(len(PARAMETERS), *image.shape[1:], dtype=image.dtype, device=image.device) for _ in indices]
    passes = [0] * len(indices)
    for noisy in noisy_images(image, n_samples, sigma, generator):
        linearization = linearize(detector, noisy)
        found = linearization.detections
        matches, _ = match_one_to_one(reference.boxes, reference.labels, found.boxes, found.labels, match_iou)
        present = [(row, int(matches[index])) for row, index in enumerate(indices) if matches[index] >= 0]
        gradients = linearization.gradients([match for _, match in present])
        for (row, _), gradient in zip(present, gradients, strict=True):
            values = gradient.values.abs().amax(dim=1).to(sums[row].device)
            height, width = values.shape[1:]
            bottom, right = gradient.top + height, gradient.left + width
            sums[row][:, gradient.top : bottom, gradient.left : right] += values
            passes[row] += 1
        del linearization, gradients  # its graph, before the next pass builds another: half the memory
        on_pass()
    return [
        ObjectSaliency(_defined_or_nan(total / count if count else total), count, n_samples)
        for total, count in zip(sums, passes, strict=True)
    ]


def _defined_or_nan(maps: Tensor) -> Tensor:
    """Replace each map that is zero everywhere or not finite by NaN."""
    flat = maps.flatten(1)
    defined = flat.isfinite().all(dim=1) & (flat > 0).any(dim=1)
    return maps.where(defined[:, None, None], torch.nan)
