"""A backbone of 0.4 million parameters, small enough to train on a CPU in a test or a demonstration.

It is put together from Detectron2's own ResNet and FPN classes, so hooks, names and gradients are those of the
full-size detectors: ``backbone.bottom_up.res2`` to ``res5``, ``backbone.fpn_lateral3``, and so on.
"""

from odsg_lightning.detectors.detectron2_names import (
    BACKBONE_REGISTRY,
    FPN,
    BasicBlock,
    BasicStem,
    CfgNode,
    ResNet,
    ShapeSpec,
)

TINY_BACKBONE = "build_tiny_resnet_fpn_backbone"
"""The name to write under ``MODEL.BACKBONE.NAME``."""

_STEM_CHANNELS = 32
_STAGE_CHANNELS = (32, 64, 96, 128)


def build_tiny_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build a ResNet with one basic block per stage, 32 to 128 channels wide, and an FPN on top.

    Args:
        cfg: read are ``MODEL.RESNETS.{NORM,OUT_FEATURES}``, ``MODEL.BACKBONE.FREEZE_AT`` and
            ``MODEL.FPN.{IN_FEATURES,OUT_CHANNELS,NORM,FUSE_TYPE}``.
        input_shape: its ``channels`` are those of the image.

    Returns:
        A backbone with the features ``p2`` to ``p5`` of the stages in ``MODEL.FPN.IN_FEATURES``; there is no ``p6``.
    """
    norm = cfg.MODEL.RESNETS.NORM
    stem = BasicStem(in_channels=input_shape.channels, out_channels=_STEM_CHANNELS, norm=norm)
    stages = [
        ResNet.make_stage(
            BasicBlock,
            1,
            stride_per_block=[1 if index == 0 else 2],
            in_channels=_STAGE_CHANNELS[index - 1] if index else _STEM_CHANNELS,
            out_channels=channels,
            norm=norm,
        )
        for index, channels in enumerate(_STAGE_CHANNELS)
    ]
    bottom_up = ResNet(
        stem, stages, out_features=cfg.MODEL.RESNETS.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT
    )
    return FPN(
        bottom_up,
        cfg.MODEL.FPN.IN_FEATURES,
        cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def register_tiny_backbone() -> None:
    """Make :data:`TINY_BACKBONE` known to Detectron2; a second call changes nothing."""
    if TINY_BACKBONE not in BACKBONE_REGISTRY:
        BACKBONE_REGISTRY.register(build_tiny_resnet_fpn_backbone)
