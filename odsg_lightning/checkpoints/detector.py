"""From a checkpoint file of unknown origin to a detector whose every weight comes from it."""

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from odsg_lightning.detectors.build import build_detector, class_count, load_config, require_upright_boxes
from odsg_lightning.detectors.detectron2_names import CfgNode
from odsg_lightning.detectors.resolve import resolve_adapter
from odsg_lightning.detectors.weights.category_names import category_names_in
from odsg_lightning.detectors.weights.files import read_checkpoint_file
from odsg_lightning.detectors.weights.load import load_state, load_weights
from odsg_lightning.detectors.weights.plain_values import values_written_out
from odsg_lightning.errors import BrokenInputError, UserInputError
from odsg_lightning.files import regular_file
from odsg_lightning.rehearsal import rehearse

_DETECTRON2 = (".pth", ".pkl", ".pyth")
_MAX_PARAMETERS = 2**31
_MAX_TENSORS = 10_000
_MAX_REPEATED = 1000
_MAX_SIDE = 64
_MAX_CONFIG_VALUES = 100_000
_OWN_MODULE = (
    "For a LightningModule of your own, name its class: --module my_pkg.my_module:MyModule --trust (it runs its code); "
    "or let its training write the records: ODSmoothGradCallback(save_records=True)."
)


class LoadedDetector(nn.Module):
    """A detector as a checkpoint describes it.

    Its state dict has the keys of :class:`odsg_lightning.DetectionModule`.

    Attributes:
        detector: Detectron2's own module.
        cfg: its configuration.
        category_names: names of its classes, in the order of their labels, if the checkpoint says.
    """

    detector: nn.Module
    category_names: tuple[str, ...] | None = None

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
        BrokenInputError: a file is missing or cannot be used, describes no detector that can be audited, holds weights
            that are not finite, or leaves a tensor of the detector as initialised: an audit of random weights would
            mean nothing; or loading it takes more time or memory than its size explains
            (:mod:`odsg_lightning.rehearsal`), unless it is trusted.
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
        return _usable(_from_lightning(checkpoint, trust), checkpoint)
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
    return _usable(_from_detectron2(checkpoint, config, num_classes, trust), checkpoint)


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
            f"configuration and weights of one. {_OWN_MODULE}"
        )
    if values_written_out(hparams["config"], _MAX_CONFIG_VALUES) > _MAX_CONFIG_VALUES:
        raise BrokenInputError(
            f"Expected the configuration in {checkpoint} to have at most {_MAX_CONFIG_VALUES} values."
        )
    classes = hparams.get("num_classes")
    module = _build(hparams["config"], classes if type(classes) is int else None, checkpoint)
    load_state(module, state, checkpoint)
    module.category_names = category_names_in(content, checkpoint)
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
    module.category_names = report.category_names
    return module


def _usable(module: LoadedDetector, checkpoint: Path) -> LoadedDetector:
    names, classes = module.category_names, class_count(module.cfg)
    if names is not None and len(names) > classes:
        raise BrokenInputError(f"Expected {checkpoint} to name its {classes} classes, but it has {len(names)} names.")
    require_finite(module, checkpoint)
    return module.eval()


def require_finite(module: nn.Module, checkpoint: Path) -> None:
    """Refuse weights that are not finite.

    Raises:
        BrokenInputError: names the first such tensor, in the order of the module.
    """
    for name, tensor in chain(module.state_dict().items(), module.named_buffers()):
        bad = int((~torch.isfinite(tensor)).sum()) if isinstance(tensor, torch.Tensor) else 0
        if bad:
            raise BrokenInputError(
                f"Expected finite weights in {checkpoint}, but {bad} of the {tensor.numel()} values of {name} are NaN "
                "or infinite: the training diverged before this checkpoint was saved. Take an earlier one."
            )


def _build(config: str | Path | Mapping[str, Any], num_classes: int | None, source: Path) -> LoadedDetector:
    if not isinstance(config, Mapping) and not Path(config).exists():
        load_config(config)  # a bare name: a mistake in it is not a broken file
    try:
        cfg = load_config(config, num_classes=num_classes)
        require_upright_boxes(cfg)
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
    """Count the parameters without making room for them, and stop at the first too many."""
    anchors = cfg.MODEL.ANCHOR_GENERATOR
    repeated = {  # what Detectron2 repeats in lists of its own before it makes the first parameter
        "MODEL.RETINANET.NUM_CONVS": cfg.MODEL.RETINANET.NUM_CONVS,
        "MODEL.ROI_BOX_HEAD.NUM_CONV": cfg.MODEL.ROI_BOX_HEAD.NUM_CONV,
        "MODEL.ROI_BOX_HEAD.NUM_FC": cfg.MODEL.ROI_BOX_HEAD.NUM_FC,
        "MODEL.ROI_MASK_HEAD.NUM_CONV": cfg.MODEL.ROI_MASK_HEAD.NUM_CONV,
        "anchors": sum(map(len, anchors.SIZES)) * sum(map(len, anchors.ASPECT_RATIOS)),
    }
    sides = {  # of what is pooled for each detection, whatever the parameters
        f"MODEL.{head}.POOLER_RESOLUTION": cfg.MODEL[head].POOLER_RESOLUTION
        for head in ("ROI_MASK_HEAD", "ROI_KEYPOINT_HEAD")
    }
    for values, limit in ((repeated, _MAX_REPEATED), (sides, _MAX_SIDE)):
        for name, value in values.items():
            if value > limit:
                raise UserInputError(f"expected at most {limit} for {name}, but got {value}")
    counts = {"parameters": 0, "tensors": 0}

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        counts["tensors"] += 1
        counts["parameters"] += 0 if parameter is None else parameter.numel()
        for what, limit in (("parameters", _MAX_PARAMETERS), ("tensors", _MAX_TENSORS)):
            if counts[what] > limit:
                raise UserInputError(f"expected at most {limit} {what}, but got {counts[what]} or more")

    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"):
            build_detector(cfg, device="meta")
    finally:
        hook.remove()
