"""A detector of coloured blobs that is differentiable, right and fast, and whose mistakes are one line each."""

import torch
from torch import nn

from odsg_lightning.types import Detections

RED, GREEN = (220.0, 40.0, 30.0), (30.0, 210.0, 40.0)
BOXES = ((10, 24, 34, 48), (48, 8, 72, 28))
LABELS = (0, 1)


def blobs_image(width: int = 96, height: int = 80) -> torch.Tensor:
    """A red and a green rectangle, at BOXES, on dark grey."""
    image = torch.full((3, height, width), 60.0)
    for (x0, y0, x1, y1), colour in zip(BOXES, (RED, GREEN), strict=True):
        image[:, y0:y1, x0:x1] = torch.tensor(colour)[:, None, None]
    return image


class BlobDetector(nn.Module):
    """Each class is a colour; its box has the mean and the spread of the pixels of that colour.

    A uniform interval of half width a has the variance a^2 / 3, so a box is mean +- sqrt(3 variance).
    """

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(30.0))

    def weights(self, image: torch.Tensor) -> torch.Tensor:
        """How far each pixel of an image [3, H, W], 0 to 1, is of each class: [2, H, W]."""
        others = torch.stack([torch.maximum(image[1], image[2]), torch.maximum(image[0], image[2])])
        return torch.sigmoid(self.gain * (image[:2] - others - 0.35))

    def numbers(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes [2, 4] and logits [2] of an image [3, H, W], 0 to 1."""
        weights = self.weights(image)
        mass = weights.sum((1, 2)) + 1e-3
        boxes = []
        for axis in (2, 1):
            places = torch.arange(image.shape[axis], dtype=image.dtype, device=image.device) + 0.5
            profile = weights.sum(3 - axis) / mass[:, None]
            mean = (profile * places).sum(1)
            half = (3 * (profile * (places - mean[:, None]) ** 2).sum(1) + 1e-6).sqrt()
            boxes += [mean - half, mean + half]
        return torch.stack([boxes[0], boxes[2], boxes[1], boxes[3]], 1), 8 * weights.amax((1, 2)) - 4

    def detect(self, images: list[torch.Tensor]) -> list[Detections]:
        return [self.one(image) for image in images]

    def one(self, image: torch.Tensor) -> Detections:
        boxes, logits = self.numbers(image / 255)
        kept = logits > 0
        return Detections(boxes[kept], logits[kept].sigmoid(), torch.arange(2, device=image.device)[kept])
