"""From a checkpoint file of unknown origin to a detector whose every weight comes from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from odsg_lightning.detectors.build import build_detector, load_config, require_boxes_only
from odsg_lightning.detectors.detectron2_names import CfgNode, build_model
from odsg_lightning.detectors.resolve import resolve_adapter
from odsg_lightning.detectors.tiny_backbone import register_tiny_backbone
from odsg_lightning.detectors.weights.files import read_checkpoint_file
from odsg_lightning.detectors.weights.load import load_weights
from odsg_lightning.errors import BrokenInputError, UserInputError
from odsg_lightning.files import regular_file
from odsg_lightning.rehearsal import rehearse

_DETECTRON2 = (".pth", ".pkl", ".pyth")
_MAX_PARAMETERS = 2**31


class LoadedDetector(nn.Module):
    """A detector as a checkpoint describes it.

    Its state dict has the keys of :class:`odsg_lightning.DetectionModule`.

    Attributes:
        detector: Detectron2's own module.
        cfg: its configuration.
    """

    detector: nn.Module

    def __init__(self, cfg: CfgNode) -> None:
        """Build the detector, on the CPU, with fresh weights."""
        super().__init__()
        self.cfg = cfg
        self.detector = build_detector(cfg)


def load_detector(
    checkpoint: Path, config: str | Path | None = None, num_classes: int | None = None, *, trust: bool = False
) -> LoadedDetector:
    """Build the detector of a checkpoint and load its weights, all of them or none.

    Args:
        checkpoint: a Lightning ``.ckpt`` of :class:`~odsg_lightning.training.module.DetectionModule`, or a Detectron2
            ``.pth`` or model-zoo ``.pkl``.
        config: of a Detectron2 checkpoint: see :func:`odsg_lightning.detectors.build.load_config`.
        num_classes: of a Detectron2 checkpoint; None for the number in ``config``.
        trust: let the file run code: see :func:`odsg_lightning.detectors.weights.files.read_checkpoint_file`.

    Returns:
        The detector, on the CPU, in evaluation mode.

    Raises:
        BrokenInputError: a file is missing or cannot be used, describes no detector that can be audited, or leaves a
            tensor of the detector as initialised: an audit of random weights would mean nothing; or loading it takes
            more time or memory than its size explains (:mod:`odsg_lightning.rehearsal`), unless it is trusted.
        UserInputError: arguments that do not fit the kind of the file.
    """
    if not trust and checkpoint.is_file():
        rehearse(lambda: _loaded(checkpoint, config, num_classes, trust), checkpoint)
    return _loaded(checkpoint, config, num_classes, trust)


def _loaded(checkpoint: Path, config: str | Path | None, num_classes: int | None, trust: bool) -> LoadedDetector:
    if checkpoint.suffix == ".ckpt":
        if config is not None or num_classes is not None:
            raise UserInputError(
                f"Expected a configuration and a number of classes for Detectron2's own files only, but {checkpoint} "
                "is one of Lightning, which carries both. Leave them out."
            )
        return _from_lightning(checkpoint, trust).eval()
    if checkpoint.suffix not in _DETECTRON2:
        raise UserInputError(
            f"Expected a checkpoint that ends in .ckpt (Lightning) or {', '.join(_DETECTRON2)} (Detectron2), but got "
            f"{checkpoint.name!r}."
        )
    if config is None:
        raise UserInputError(
            f"Expected the configuration of {checkpoint}: a Detectron2 checkpoint holds weights only. Give a bare name "
            "from configs/detectors or a YAML file (--config)."
        )
    return _from_detectron2(checkpoint, config, num_classes, trust).eval()


def _from_lightning(checkpoint: Path, trust: bool) -> LoadedDetector:
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


def _from_detectron2(checkpoint: Path, config: str | Path, num_classes: int | None, trust: bool) -> LoadedDetector:
    regular_file(checkpoint, "a checkpoint")
    module = _build(config, num_classes, Path(config))
    report = load_weights(module.detector, checkpoint, trust=trust)
    if report.missing or report.skipped:
        raise BrokenInputError(
            f"Expected {checkpoint} to fill the whole detector, because an audit of random weights means nothing, but "
            f"it does not. Is the configuration or the number of classes another one?\n{report}"
        )
    return module


def _build(config: str | Path | Mapping[str, Any], num_classes: int | None, source: Path) -> LoadedDetector:
    if not isinstance(config, Mapping) and not Path(config).exists():
        load_config(config)  # a bare name: a mistake in it is not a broken file
    try:
        cfg = load_config(config, num_classes=num_classes)
        require_boxes_only(cfg)
        _refuse_giants(cfg)
        module = LoadedDetector(cfg)
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
        raise UserInputError(f"expected at most {_MAX_PARAMETERS} parameters, but got {count}")
