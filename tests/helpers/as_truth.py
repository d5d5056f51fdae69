"""What an untrained detector finds is taken for the truth, so that there is something to audit."""

import torch

from odsg_lightning import resolve_adapter
from odsg_lightning.types import AuditSample


def detections_as_truth(module, height, width, choose):
    """Return an audit sample of one image of noise: of what the detector in a module finds there, what is chosen.

    The masks are the filled boxes; the module is in training mode afterwards.
    """
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(5)) * 255
    with torch.no_grad():
        (found,) = resolve_adapter(module.eval()).detect([image])
    found = choose(found)
    masks = torch.zeros(len(found), height, width, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, found.boxes.round().int().clamp(min=0).tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    module.train()
    return AuditSample(image, found.boxes, found.labels, masks, 1, tuple(range(1, len(found) + 1)))
