"""The names of Detectron2 that this package uses, 0.5, 0.6 and main; no other module imports Detectron2.

Raises:
    MissingDependencyError: Detectron2 is not installed; the message says how to install it.
"""

from odsg_lightning.errors import MissingDependencyError

try:
    from detectron2 import solver
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import CfgNode, get_cfg
    from detectron2.layers import Conv2d, FrozenBatchNorm2d, ROIAlign, ShapeSpec
    from detectron2.modeling import BACKBONE_REGISTRY, GeneralizedRCNN, RetinaNet, build_model
    from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
    from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock, ResNet
    from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
    from detectron2.modeling.poolers import assign_boxes_to_levels
    from detectron2.modeling.proposal_generator import RPN
    from detectron2.modeling.roi_heads import Res5ROIHeads, StandardROIHeads
    from detectron2.structures import BitMasks, Boxes, Instances
    from detectron2.utils.events import EventStorage
    from detectron2.utils.file_io import PathManager
except ModuleNotFoundError as error:
    if error.name != "detectron2":
        raise
    raise MissingDependencyError(
        "Detectron2 is not installed, and this part of odsg_lightning needs it. Install an official build, or the "
        "pure-Python one from PyPI with the two commands of the README's section 'Installing Detectron2'."
    ) from error

__all__ = [
    "BACKBONE_REGISTRY",
    "FPN",
    "RPN",
    "BasicBlock",
    "BasicStem",
    "BitMasks",
    "BottleneckBlock",
    "Boxes",
    "CfgNode",
    "Conv2d",
    "DetectionCheckpointer",
    "EventStorage",
    "FrozenBatchNorm2d",
    "GeneralizedRCNN",
    "Instances",
    "LastLevelMaxPool",
    "LastLevelP6P7",
    "PathManager",
    "ROIAlign",
    "Res5ROIHeads",
    "ResNet",
    "RetinaNet",
    "RetinaNetHead",
    "ShapeSpec",
    "StandardROIHeads",
    "assign_boxes_to_levels",
    "build_model",
    "get_cfg",
    "solver",
]
