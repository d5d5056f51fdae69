"""transformers' and RF-DETR's detectors, a few channels wide, whose detections depend on the image."""

import torch
from torch import nn

TRANSFORMERS = ("detr", "conditional_detr", "deformable_detr", "rt_detr", "rt_detr_v2", "d_fine")
REFINING = ("deformable_detr", "rt_detr", "rt_detr_v2", "d_fine")
"""Of these, those that detach their boxes between decoder layers."""

CLASSES, QUERIES = 3, 12
_BACKBONE = {"embedding_size": 8, "hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}
_HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
_SIZES = {"d_model": 32, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_queries": QUERIES, "num_labels": CLASSES}


def tiny_transformers(kind: str) -> nn.Module:
    """Build one of :data:`TRANSFORMERS` in eval mode, with the same random weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return with_lively_weights(_build(kind), 1.0 if kind == "d_fine" else 2.0).eval()


def processor_of(kind: str, height: int = 64, width: int = 64, **settings):
    """Return its image processor, for a model that is trained on images of this size."""
    import transformers

    from odsg_lightning.detectors.transformers import PROCESSORS

    name = PROCESSORS[type(tiny_transformers(kind)).__name__]
    return getattr(transformers, name)(size={"height": height, "width": width}, **settings)


def tiny_rfdetr(resolution: int = 64) -> nn.Module:
    """Build RF-DETR's network without its published weights, in eval mode; its smallest encoder has 22 million."""
    from rfdetr.models.lwdetr import build_model_from_config

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return with_lively_weights(build_model_from_config(rfdetr_config(resolution)), 1.0).eval()


def rfdetr_config(resolution: int = 64):
    from rfdetr.config import RFDETRNanoConfig

    narrow = {"hidden_dim": 32, "sa_nheads": 2, "ca_nheads": 2, "dec_layers": 2, "out_feature_indexes": [1, 2]}
    few = {"num_queries": QUERIES, "num_select": QUERIES, "num_classes": CLASSES, "num_windows": 1, "group_detr": 1}
    return RFDETRNanoConfig(pretrain_weights=None, device="cpu", resolution=resolution, **narrow, **few)


def with_lively_weights(model: nn.Module, gain: float) -> nn.Module:
    """Give a model weights other than those of initialisation: the last layer of its box heads has zeros.

    Args:
        model: to be changed.
        gain: of the convolutions; the other layers have 1.
    """
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=(gain if parameter.ndim > 2 else 1) * parameter[0].numel() ** -0.5)
        else:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


def _build(kind: str) -> nn.Module:
    import transformers as hf

    if kind in ("detr", "conditional_detr", "deformable_detr"):
        name = {"detr": "Detr", "conditional_detr": "ConditionalDetr", "deformable_detr": "DeformableDetr"}[kind]
        features = ["stage2", "stage3", "stage4"] if kind == "deformable_detr" else ["stage4"]
        refining = {"num_feature_levels": 3, "with_box_refine": True}
        settings = {"encoder_layers": 1, "decoder_layers": 2} | (refining if kind == "deformable_detr" else {})
        backbone = hf.ResNetConfig(**_BACKBONE, out_features=features)
    else:
        name = {"rt_detr": "RTDetr", "rt_detr_v2": "RTDetrV2", "d_fine": "DFine"}[kind]
        settings = {"decoder_layers": 2, "encoder_in_channels": [8, 8, 16], "encoder_hidden_dim": 32}
        settings |= {"decoder_in_channels": [32, 32, 32], "num_denoising": 4}
        backbone = hf.RTDetrResNetConfig(**_BACKBONE, out_features=["stage2", "stage3", "stage4"])
    config = getattr(hf, f"{name}Config")(backbone_config=backbone, **settings, **_SIZES, **_HEADS)
    return getattr(hf, f"{name}ForObjectDetection")(config)
