"""torchvision's detectors in the table of detectors."""

from collections.abc import Callable
from typing import Any

import torch
from row import Row, made_loud, output_held
from torch import nn
from torchvision.models import detection

from odsg_lightning.detectors.torchvision import TorchvisionAdapter

_CLASSES = 4


def _maker(build: Callable[..., nn.Module], **settings: Any) -> Callable[[int], TorchvisionAdapter]:
    def make(size: int) -> TorchvisionAdapter:
        sizes = {} if build in (detection.ssd300_vgg16, detection.ssdlite320_mobilenet_v3_large) else {"min_size": size}
        model = build(weights=None, weights_backbone=None, num_classes=_CLASSES, **sizes, **settings).eval()
        made_loud(model, lambda: model([torch.rand(3, size, size)]))
        if isinstance(model, detection.FCOS):
            nn.init.ones_(model.head.regression_head.bbox_reg.bias)  # its distances are rectified
        return TorchvisionAdapter(model)

    return make


def _proposals_held(detector: TorchvisionAdapter) -> Any:
    return output_held(detector.model.get_submodule("rpn"))


_DETACHED = "proposals are detached; label 0 is the background"
ROWS = [
    Row("torchvision RetinaNet-R50-FPN", _maker(detection.retinanet_resnet50_fpn), "do labels begin at 0 or at 1?"),
    Row("torchvision FCOS-R50-FPN", _maker(detection.fcos_resnet50_fpn), "do labels begin at 0 or at 1?"),
    Row("torchvision SSD300-VGG16", _maker(detection.ssd300_vgg16), "resizes to a square; label 0 is the background"),
    Row(
        "torchvision SSDlite320-MobileNetV3",
        _maker(detection.ssdlite320_mobilenet_v3_large),
        "resizes to a square; label 0 is the background",
    ),
    Row("torchvision Faster R-CNN-R50-FPN", _maker(detection.fasterrcnn_resnet50_fpn), _DETACHED, _proposals_held),
    Row("torchvision Mask R-CNN-R50-FPN", _maker(detection.maskrcnn_resnet50_fpn), _DETACHED, _proposals_held),
    Row("torchvision Keypoint R-CNN-R50-FPN", _maker(detection.keypointrcnn_resnet50_fpn), _DETACHED, _proposals_held),
]
