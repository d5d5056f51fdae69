"""Which engine runs for a Detectron2 detector, and why: decided by how the detector is built, every time."""

from inspect import getattr_static
from typing import NamedTuple

import torch
from torch import nn

from odsg_lightning.detectors.detectron2_names import RPN, GeneralizedRCNN, Res5ROIHeads, RetinaNet, StandardROIHeads
from odsg_lightning.detectors.engine.backbone import AutogradBackbone, BackboneEngine
from odsg_lightning.detectors.engine.dense_head import DenseHead
from odsg_lightning.detectors.engine.head import Head
from odsg_lightning.detectors.engine.roi_head import RoiHead
from odsg_lightning.detectors.engine.window import UnsupportedModelError
from odsg_lightning.detectors.engine.windowed import WindowedBackbone
from odsg_lightning.saliency.options import ANY_DETECTOR, check_engine
from odsg_lightning.saliency.protocol import EngineChoice

_TRAINING_ONLY = {
    "losses", "label_anchors", "forward_training", "visualize_training", "label_and_sample_proposals",
    "_sample_proposals", "label_and_sample_anchors", "_subsample_labels",
}  # fmt: skip


class EngineParts(NamedTuple):
    """What the chosen engine consists of; both are None for plain autograd."""

    choice: EngineChoice
    head: Head | None = None
    backbone: BackboneEngine | None = None


def choose_engine(model: nn.Module, engine: str = "auto", precision: str = "full", trim: float = 0.0) -> EngineParts:
    """Choose the engine for a detector and build its parts, which serve one image.

    Args:
        model: a RetinaNet or a GeneralizedRCNN.
        engine: ``"auto"`` or ``"windowed"`` for the first of these that knows the detector: the windowed engine, the
            cut engine, plain autograd; ``"cut"`` for the first of the last two; ``"batched"`` or ``"autograd"`` for the
            last.
        precision: ``"bf16"`` for a backward pass of the windowed engine in bfloat16.
        trim: share of a cotangent's mass that the windowed engine may leave out at every block of the network.

    Raises:
        ValueError: an engine or a precision of another name; a share out of range.
    """
    check_engine(engine, precision, trim)
    lost = [*(["bf16"] if precision == "bf16" else []), *(["trimming"] if trim else [])]
    exact_only = f"; {' and '.join(lost)} {'are' if lost[1:] else 'is'} for the windowed engine alone" if lost else ""
    if engine in ANY_DETECTOR:
        return EngineParts(EngineChoice("autograd", "full", f"plain autograd was asked for{exact_only}"))
    try:
        head = _head_of(model)
    except UnsupportedModelError as reason:
        return EngineParts(EngineChoice("autograd", "full", f"the cut engine does not know {reason}{exact_only}"))
    backbone = model.get_submodule("backbone")
    if engine == "cut":
        choice = EngineChoice("cut", "full", f"the cut engine was asked for{exact_only}")
        return EngineParts(choice, head, AutogradBackbone(backbone))
    try:
        windowed = WindowedBackbone(backbone, torch.bfloat16 if precision == "bf16" else None, trim)
    except UnsupportedModelError as reason:
        choice = EngineChoice("cut", "full", f"the windowed engine does not know the backbone: {reason}{exact_only}")
        return EngineParts(choice, head, AutogradBackbone(backbone))
    choice = EngineChoice("windowed", precision, "the windowed engine knows every part of the backbone", trim)
    return EngineParts(choice, head, windowed)


def _head_of(model: nn.Module) -> Head:
    """Return the head of a detector that consists of backbone, head and decoding, with nothing between or beside.

    Raises:
        UnsupportedModelError: names the part that is built in another way.
    """
    if isinstance(model, RetinaNet):
        _check_methods(model, RetinaNet, "the model")
        return DenseHead(model)
    _check_methods(model, GeneralizedRCNN, "the model")
    # Detectron2's own RPN detaches its proposals, a relative of it may not.
    _check_methods(model.proposal_generator, RPN, "model.proposal_generator")
    heads = model.get_submodule("roi_heads")
    kind = next((kind for kind in (StandardROIHeads, Res5ROIHeads) if isinstance(heads, kind)), None)
    if kind is None:
        raise UnsupportedModelError(f"model.roi_heads, a {type(heads).__name__}")
    predictor = getattr(heads, "box_predictor", None)
    if predictor is None or isinstance(predictor, nn.ModuleList):
        raise UnsupportedModelError(f"model.roi_heads.box_predictor, a {type(predictor).__name__}: not one stage")
    weights = getattr(getattr(predictor, "box2box_transform", None), "weights", None)
    if weights is not None and len(weights) != 4:
        raise UnsupportedModelError("model.roi_heads with rotated boxes")
    _check_methods(heads, kind, "model.roi_heads")
    return RoiHead(heads)


def _check_methods(module: object, known: type[nn.Module], part: str) -> None:
    """Refuse a module that does something else at inference than the class that this engine knows.

    Hooks see what goes in and out of modules, but not what a method does with it in between: a subclass that, say,
    weighs the scores by the features again would get the gradient of its scores without that path.
    """
    if not isinstance(module, known):
        raise UnsupportedModelError(f"{part}, a {type(module).__name__}")
    for name in dir(known):
        if name.startswith("__") or name in _TRAINING_ONLY or not callable(getattr(known, name)):
            continue
        if isinstance(getattr_static(known, name), classmethod) or (name != "forward" and hasattr(nn.Module, name)):
            continue
        if getattr(type(module), name) is not getattr(known, name) or name in vars(module):
            raise UnsupportedModelError(f"{part}, a {type(module).__name__} with its own {name}()")
