"""RF-DETR in the table of detectors."""

import torch
from rfdetr.config import RFDETRNanoConfig
from rfdetr.models.lwdetr import build_model_from_config
from row import Row, made_loud
from rows_transformers import detached_held

from odsg_lightning.detectors.rfdetr import RfdetrAdapter


def _nano(size: int) -> RfdetrAdapter:
    """Build it for the next smaller multiple of 32 pixels, which its windows of patches need."""
    side = size // 32 * 32
    model = build_model_from_config(
        RFDETRNanoConfig(pretrain_weights=None, device="cpu", resolution=side, num_classes=4)
    ).eval()
    made_loud(model, lambda: model(torch.rand(1, 3, side, side)))
    return RfdetrAdapter(model)


ROWS = [
    Row(
        "RF-DETR Nano",
        _nano,
        "boxes are detached between layers (`through_refinement`); validates on averaged weights, which are audited",
        detached_held,
    )
]
