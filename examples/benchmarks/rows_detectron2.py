"""Detectron2's detectors in the table of detectors."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from row import Row, made_loud, output_held
from torchvision.ops import boxes

from odsg_lightning.detectors.build import build_detector, load_config
from odsg_lightning.detectors.detectron2 import Detectron2Adapter


def _maker(config: str, **overrides: Any) -> Callable[[int], Detectron2Adapter]:
    def make(size: int) -> Detectron2Adapter:
        model = build_detector(load_config(config, overrides, num_classes=4)).eval()
        adapter = Detectron2Adapter(model)
        made_loud(model, lambda: adapter.detect([torch.rand(3, size, size) * 255]))
        return adapter

    return make


_STEP = 0.01  # Detectron2 keeps boxes in single precision: a step must not be too small


@contextmanager
def _held(detector: Detectron2Adapter) -> Iterator[None]:
    """Hold the proposals, if there are any, and let boxes in single precision meet scores in double."""
    proposals, nms = getattr(detector.model, "proposal_generator", None), boxes.nms
    boxes.nms = lambda at, scores, iou: nms(at, scores.to(at.dtype), iou)
    try:
        with nullcontext() if proposals is None else output_held(proposals):
            yield
    finally:
        boxes.nms = nms


ROWS = [
    Row("Detectron2 RetinaNet-R50-FPN", _maker("retinanet_R_50_FPN"), "", _held, _STEP),
    Row(
        "Detectron2 Faster R-CNN-R50-FPN",
        _maker("faster_rcnn_R_50_FPN"),
        "proposals are detached",
        _held,
        _STEP,
    ),
    Row(
        "Detectron2 Mask R-CNN-R50-FPN",
        _maker("faster_rcnn_R_50_FPN", **{"MODEL.MASK_ON": True}),
        "proposals are detached; masks are not explained",
        _held,
        _STEP,
    ),
]
