"""Detectors whose saliency is known without running anything, and audit samples for them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from odsg_lightning.saliency.noise import image_generator
from odsg_lightning.saliency.smoothgrad import smoothgrad
from odsg_lightning.types import AuditSample, Detections

IMAGE = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 255


def explain(detector, indices=(0, 1), image=IMAGE, **settings):
    with torch.no_grad():
        (reference,) = detector.detect([image])
    settings.setdefault("generator", image_generator(0, 1))
    return smoothgrad(detector, image, reference, list(indices), **settings)


class LinearDetector:
    """Each number is a fixed weighted sum of the pixels: its gradient is the weights, wherever it is taken."""

    def __init__(self, base: Tensor, weights: Tensor, labels: Tensor) -> None:
        """Take base [K, 5], weights [K, 5, 3, H, W] and labels [K]."""
        self.base, self.weights, self.labels = base, weights, labels
        self.seen: list[Tensor] = []

    def detect(self, images: Sequence[Tensor]) -> list[Detections]:
        found = []
        for image in images:
            self.seen.append(image.detach().clone())
            numbers = self.base + torch.einsum("kpchw,chw->kp", self.weights, image - 128)
            found.append(Detections(numbers[:, :4], numbers[:, 4], self.labels))
        return found


class QuadraticDetector(LinearDetector):
    """Each number is half the weighted sum of squares: its gradient is weights * (pixel - 128)."""

    def detect(self, images: Sequence[Tensor]) -> list[Detections]:
        found = []
        for image in images:
            self.seen.append(image.detach().clone())
            numbers = self.base + torch.einsum("kpchw,chw->kp", self.weights, (image - 128) ** 2) / 2
            found.append(Detections(numbers[:, :4], numbers[:, 4], self.labels))
        return found


def two_objects(
    size: int = 24, dtype: torch.dtype = torch.float64, scale: float = 1e-5
) -> tuple[Tensor, Tensor, Tensor]:
    """Return base, weights and labels of two objects of different classes, with random weights."""
    generator = torch.Generator().manual_seed(3)
    base = torch.tensor([[2, 2, 12, 12, 0.95], [10, 8, 22, 20, 0.97]], dtype=dtype)
    weights = scale * torch.randn(2, 5, 3, size, size, generator=generator, dtype=dtype)
    return base, weights, torch.tensor([0, 1])


def box_sample(
    boxes: Sequence[Sequence[int]], labels: Sequence[int], size: int = 24, image_id: int = 1, first_annotation: int = 1
) -> AuditSample:
    """Return a grey image whose objects fill their integer boxes."""
    masks = torch.zeros(len(boxes), size, size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return AuditSample(
        image=torch.full((3, size, size), 128.0),
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.int64),
        masks=masks,
        image_id=image_id,
        annotation_ids=tuple(range(first_annotation, first_annotation + len(boxes))),
    )
