"""RF-DETR in the table of detectors."""

from rfdetr.config import RFDETRNanoConfig
from rfdetr.models.lwdetr import build_model_from_config
from row import Row, detached_held, made_lively

from odsg_lightning.detectors.rfdetr import RfdetrAdapter


def _nano(size: int) -> RfdetrAdapter:
    """Build it for the next smaller multiple of 32 pixels, which its windows of patches need."""
    config = RFDETRNanoConfig(pretrain_weights=None, device="cpu", resolution=size // 32 * 32, num_classes=4)
    return RfdetrAdapter(made_lively(build_model_from_config(config)))


ROWS = [Row("RF-DETR Nano", _nano, "boxes are detached; averaged weights are audited", detached_held, step=1e-5)]
