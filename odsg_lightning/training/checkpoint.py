"""From a checkpoint file of unknown origin to a detector whose every weight comes from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from odsg_lightning.audit.files import BrokenInputError, regular_file
from odsg_lightning.detectors.build import load_config
from odsg_lightning.detectors.detectron2_import import require_detectron2
from odsg_lightning.detectors.resolve import resolve_adapter
from odsg_lightning.detectors.tiny_backbone import register_tiny_backbone
from odsg_lightning.training.checkpoint_files import read_checkpoint_file
from odsg_lightning.training.module import DetectionModule
from odsg_lightning.training.weights import load_weights

require_detectron2()

from detectron2.config import CfgNode  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402

_DETECTRON2 = (".pth", ".pkl", ".pyth")
_MAX_PARAMETERS = 2**31


def load_detector(
    checkpoint: Path, config: str | Path | None = None, num_classes: int | None = None, *, trust: bool = False
) -> DetectionModule:
    """Build the detector of a checkpoint and load its weights, all of them or none.

    Args:
        checkpoint: a Lightning ``.ckpt`` of :class:`~odsg_lightning.training.module.DetectionModule`, or a Detectron2
            ``.pth`` or model-zoo ``.pkl``.
        config: of a Detectron2 checkpoint: a bare name from ``configs/detectors`` or a YAML file.
        num_classes: of a Detectron2 checkpoint; None for the number in ``config``.
        trust: let the file run code: see :func:`odsg_lightning.training.checkpoint_files.read_checkpoint_file`.

    Returns:
        The module, on the CPU, in evaluation mode.

    Raises:
        BrokenInputError: a file is missing or cannot be used, describes no detector that can be audited, or leaves a
            tensor of the detector as initialised: an audit of random weights would mean nothing.
        ValueError: arguments that do not fit the kind of the file.
    """
    if checkpoint.suffix == ".ckpt":
        if config is not None or num_classes is not None:
            raise ValueError(
                f"Expected a configuration and a number of classes for Detectron2's own files only, but {checkpoint} "
                "is one of Lightning, which carries both. Leave them out."
            )
        return _from_lightning(checkpoint, trust).eval()
    if checkpoint.suffix not in _DETECTRON2:
        raise ValueError(
            f"Expected a checkpoint that ends in .ckpt (Lightning) or {', '.join(_DETECTRON2)} (Detectron2), but got "
            f"{checkpoint.name!r}."
        )
    if config is None:
        raise ValueError(
            f"Expected the configuration of {checkpoint}: a Detectron2 checkpoint holds weights only. Give a bare name "
            "from configs/detectors or a YAML file (--config)."
        )
    return _from_detectron2(checkpoint, config, num_classes, trust).eval()


def _from_lightning(checkpoint: Path, trust: bool) -> DetectionModule:
    content = read_checkpoint_file(checkpoint, trust=trust)
    hparams, state = content.get("hyper_parameters"), content.get("state_dict")
    if (
        not isinstance(hparams, Mapping)
        or not isinstance(hparams.get("config"), Mapping)
        or not isinstance(state, dict)
    ):
        raise BrokenInputError(
            f"Expected {checkpoint} to be a checkpoint of odsg_lightning.DetectionModule, but it holds no "
            "configuration and weights of one."
        )
    classes = hparams.get("num_classes")
    module = _build(hparams["config"], classes if type(classes) is int else None, checkpoint)
    try:
        module.load_state_dict(state)
    except Exception as error:  # PyTorch lists the keys in a RuntimeError; strange values raise nearly everything
        raise BrokenInputError(
            f"Expected {checkpoint} to fill the detector of its configuration, but: {str(error)[:2000]}"
        ) from error
    return module


def _from_detectron2(checkpoint: Path, config: str | Path, num_classes: int | None, trust: bool) -> DetectionModule:
    regular_file(checkpoint, "a checkpoint")
    module = _build(config, num_classes, Path(config))
    try:
        report = load_weights(module.detector, checkpoint, trust=trust)
    except ValueError as error:
        raise BrokenInputError(str(error)) from error
    if report.missing or report.skipped:
        raise BrokenInputError(
            f"Expected {checkpoint} to fill the whole detector, because an audit of random weights means nothing, but "
            f"it does not. Is the configuration or the number of classes another one?\n{report}"
        )
    return module


def _build(config: str | Path | Mapping[str, Any], num_classes: int | None, source: Path) -> DetectionModule:
    if not isinstance(config, Mapping) and not Path(config).exists():
        load_config(config)  # a bare name: a mistake in it is not a broken file
    try:
        cfg = load_config(config, num_classes=num_classes)
        _refuse_giants(cfg)
        module = DetectionModule(cfg)
        resolve_adapter(module)
    except ImportError:  # it needs compiled operators
        raise
    except Exception as error:  # Detectron2 checks little: wrong values raise nearly everything
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise BrokenInputError(
            f"Expected {source} to describe a detector that can be built and audited, but: {kind}{str(error)[:2000]}"
        ) from error
    return module


def _refuse_giants(cfg: CfgNode) -> None:
    """Count the parameters without making room for them."""
    register_tiny_backbone()
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model: nn.Module = build_model(cfg)
    count = sum(parameter.numel() for parameter in model.parameters())
    if count > _MAX_PARAMETERS:
        raise ValueError(f"expected at most {_MAX_PARAMETERS} parameters, but got {count}")
