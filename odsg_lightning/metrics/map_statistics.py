"""What else a box map tells beside IOF: how large its foreground is, and where its mass and its maximum lie.

IOF alone mixes two things: a foreground larger than the object cannot lie on it wholly, wherever it is centred.
"""

import torch
from torch import Tensor

from odsg_lightning.names import BOX_PARAMETERS
from odsg_lightning.saliency.masks import defined_maps


def map_statistics(maps: Tensor, smooth: Tensor, foreground: Tensor, mask: Tensor) -> Tensor:
    """Measure the box maps of one object.

    - ``area_ratio``: pixels of the foreground for each pixel of the object;
    - ``relevance_mass``: share of the map's sum on the object (*relevance mass accuracy*, Arras et al. 2022);
    - ``pointing_game``: share of the maps whose maximum, after the blur, lies on the object (Zhang et al. 2018).

    Args:
        maps: ``[5, H, W]`` saliency maps, not negative, NaN where undefined.
        smooth: ``[5, H, W]`` the same after :func:`~odsg_lightning.saliency.masks.smoothed`.
        foreground: ``[5, H, W]`` bool, the binarised maps.
        mask: ``[H, W]`` bool segmentation, with at least one pixel.

    Returns:
        ``[3]`` float32 in the order of ``names.MAP_NAMES``: means over the defined box maps, NaN if there are none.

    Example:
        >>> maps = torch.zeros(5, 4, 4); maps[:, 1, 1], maps[:, 3, 3] = 3.0, 1.0
        >>> mask = torch.zeros(4, 4, dtype=torch.bool); mask[:2, :2] = True
        >>> map_statistics(maps, maps, maps > 0, mask)
        tensor([0.5000, 0.7500, 1.0000])
    """
    defined = defined_maps(maps)[: len(BOX_PARAMETERS)]
    boxes, smooth, foreground = (part[: len(BOX_PARAMETERS)][defined].flatten(1) for part in (maps, smooth, foreground))
    on_object = mask.flatten().to(maps.device)
    area = foreground.sum(dim=1) / on_object.sum()
    mass = boxes[:, on_object].double().sum(dim=1) / boxes.double().sum(dim=1)
    peak = on_object[smooth.argmax(dim=1)] if len(boxes) else area
    return torch.stack([area.float(), mass.float(), peak.float()], dim=1).mean(dim=0)
