"""Controls: maps of which is known beforehand what a sound measure must say of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from odsg_lightning.explainers.smoothgrad import SmoothGrad
from odsg_lightning.names import PARAMETERS
from odsg_lightning.saliency.masks import mask_extent, object_thirds
from odsg_lightning.saliency.noise import image_generator
from odsg_lightning.types import Detections

ROTATED, GAUSSIAN, ANOTHER, LINEAR = "rotated by 180 degrees", "centre Gaussian", "another object's", "linear detector"


def rotated(maps: Tensor, mask: Tensor) -> Tensor:
    """Return maps ``[5, H, W]`` rotated by 180 degrees about the middle of an object's box: edge becomes opposite.

    What comes from outside the picture is zero.
    """
    top, left, bottom, right = mask_extent(mask)
    height, width = mask.shape
    rows, columns = top + bottom - 1 - torch.arange(height), left + right - 1 - torch.arange(width)
    inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
    turned = maps[:, rows.clamp(0, height - 1)][:, :, columns.clamp(0, width - 1)]
    return torch.where(inside, turned, 0.0)


def centre_gaussian(mask: Tensor) -> Tensor:
    """Return five times the same map ``[5, H, W]``: a Gaussian on the middle of an object's box, a quarter of it wide.

    It knows where the object is and nothing else, and its middle wins.
    """
    top, left, bottom, right = mask_extent(mask)
    rows, columns = (torch.arange(length) + 0.5 for length in mask.shape)
    y = ((rows - (top + bottom) / 2) / ((bottom - top) / 4)) ** 2
    x = ((columns - (left + right) / 2) / ((right - left) / 4)) ** 2
    return torch.exp(-(y[:, None] + x) / 2).expand(len(PARAMETERS), *mask.shape)


class EdgeReader:
    """A detector of one object, each of whose coordinates is the sum of the pixels of its own third.

    Its gradient is known exactly: one on the object's edge, and zero elsewhere.

    Args:
        mask: ``[H, W]`` bool, the object.
    """

    def __init__(self, mask: Tensor) -> None:
        """See the class for the arguments."""
        top, left, bottom, right = mask_extent(mask)
        self.box = torch.tensor([left, top, right, bottom], dtype=torch.float32)
        self.edges = object_thirds(mask)[:, 0].float()

    def detect(self, images: Sequence[Tensor]) -> list[Detections]:
        """See :class:`odsg_lightning.saliency.protocol.Detector`."""
        found = []
        for image in images:
            read = (self.edges * image.mean(dim=0)).sum(dim=(1, 2))
            # Next to nothing, so that the box stays where it is whatever the noise is.
            found.append(Detections((self.box + 1e-9 * read)[None], (1e-9 * image.sum())[None], torch.tensor([0])))
        return found


def linear_maps(image: Tensor, mask: Tensor, samples: int = 2) -> Tensor:
    """Return the maps ``[5, H, W]`` of an :class:`EdgeReader`, made as those of every detector are."""
    detector = EdgeReader(mask)
    with torch.no_grad():
        (reference,) = detector.detect([image])
    [saliency] = SmoothGrad(n_samples=samples).explain(detector, image, reference, [0], generator=image_generator(0, 0))
    return saliency.maps
