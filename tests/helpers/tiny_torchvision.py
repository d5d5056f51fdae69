"""torchvision's detectors, three layers deep, and with weights so large that what they find depends on the image."""

from itertools import pairwise

import torch
from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.ssd import SSD
from torchvision.ops import MultiScaleRoIAlign

KINDS = ("retinanet", "fcos", "ssd", "faster_rcnn", "mask_rcnn", "keypoint_rcnn")
CLASSES = 3
"""RetinaNet and FCOS have the labels 0 to 2, the others 1 to 3: 0 is the background."""

_CHANNELS = 32


def tiny_torchvision(kind: str, size: int = 96) -> nn.Module:
    """Build one of :data:`KINDS` in eval mode, with the same random weights every time.

    Args:
        kind: which.
        size: to which it resizes the shorter edge of an image; SSD both edges.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _build(kind, size).eval()
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                nn.init.kaiming_normal_(parameter)
                parameter.data.mul_(0.1 if any(part in name for part in ("cls_", "bbox_", "ctrness")) else 1.0)
            elif name.endswith("bias"):
                nn.init.constant_(parameter, 1.0 if kind == "fcos" and "bbox_reg" in name else 0.0)
    return model


def _build(kind: str, size: int) -> nn.Module:
    anchors = AnchorGenerator(((24,),), ((1.0,),))
    sizes = {"min_size": size, "max_size": 2 * size}
    few = {"score_thresh": 0.0, "detections_per_img": 8}
    if kind == "ssd":
        backbone = _backbone([_CHANNELS])
        boxes = DefaultBoxGenerator([[2]], scales=[0.3, 0.6], steps=[8])
        return SSD(backbone, boxes, (size, size), CLASSES + 1, **few)
    backbone = _backbone(_CHANNELS)
    if kind in ("retinanet", "fcos"):
        dense = {"retinanet": RetinaNet, "fcos": FCOS}[kind]
        return dense(backbone, CLASSES, anchor_generator=anchors, **sizes, **few)
    pooler = MultiScaleRoIAlign(["0"], 4, 2)
    settings = {
        "rpn_anchor_generator": anchors,
        "rpn_post_nms_top_n_test": 20,
        "box_roi_pool": pooler,
        "box_head": TwoMLPHead(_CHANNELS * 16, 32),
        "box_predictor": FastRCNNPredictor(32, CLASSES + 1),
        "box_detections_per_img": 8,
    }
    if kind == "faster_rcnn":
        return FasterRCNN(backbone, **settings, **sizes)
    if kind == "mask_rcnn":
        head, predictor = MaskRCNNHeads(_CHANNELS, (16,), 1), MaskRCNNPredictor(16, 16, CLASSES + 1)
        masks = {"mask_roi_pool": pooler, "mask_head": head, "mask_predictor": predictor}
        return MaskRCNN(backbone, **masks, **settings, **sizes)
    keypoints = {"keypoint_roi_pool": pooler, "keypoint_head": KeypointRCNNHeads(_CHANNELS, (16,))}
    keypoints |= {"keypoint_predictor": KeypointRCNNPredictor(16, 2)}
    return KeypointRCNN(backbone, **keypoints, **settings, **sizes)


def _backbone(out_channels: int | list[int]) -> nn.Module:
    channels = (3, 16, 24, _CHANNELS)
    layers: list[nn.Module] = []
    for inside, outside in pairwise(channels):
        layers += [nn.Conv2d(inside, outside, 3, 2, 1), nn.SiLU()]
    backbone = nn.Sequential(*layers)
    backbone.out_channels = out_channels
    return backbone
