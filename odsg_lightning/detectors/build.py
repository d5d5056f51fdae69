"""From a configuration to a Detectron2 detector."""

import difflib
import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from odsg_lightning.config_files import config_names, config_path
from odsg_lightning.detectors.config_yaml import changed_values, read_config
from odsg_lightning.detectors.detectron2_names import CfgNode, build_model, get_cfg
from odsg_lightning.detectors.tiny_backbone import register_tiny_backbone
from odsg_lightning.errors import UserInputError

_UNREGISTERED = re.compile(r"No object named '(.*)' found in '(.*)' registry")  # fvcore's Registry

_ROTATED = {"RotatedAnchorGenerator", "RRPN", "RROIHeads"}

_LAZY = (
    "A LazyConfig is code, which is not run here. Give the YAML file of the same detector (most of Detectron2's model "
    "zoo has one); or build the model in Python, `instantiate(LazyConfig.load(...).model)`, and put it into a "
    "LightningModule: the callback audits that in training, and `odsg audit --module` its checkpoints."
)

Overrides = Sequence[str] | Mapping[str, Any]


def load_config(
    config: str | Path | Mapping[str, Any] | CfgNode, overrides: Overrides = (), num_classes: int | None = None
) -> CfgNode:
    """Merge a configuration into Detectron2's defaults.

    Args:
        config: a bare name from ``configs/detectors`` (``"retinanet_tiny"``), a name of Detectron2's model zoo
            (``"COCO-Detection/retinanet_R_50_FPN_3x.yaml"``), the path of a YAML file, which may name other files in
            ``_BASE_``, a mapping of Detectron2 keys, or a ``CfgNode``, which is copied.
        overrides: applied last: a mapping, nested or with dotted keys; or strings, as ``["SOLVER.BASE_LR=0.001"]`` or
            in Detectron2's own way ``["SOLVER.BASE_LR", "0.001"]``.
        num_classes: set as ``MODEL.RETINANET.NUM_CLASSES`` and ``MODEL.ROI_HEADS.NUM_CLASSES``; ``None`` leaves both.

    Returns:
        A complete configuration, not frozen.

    Raises:
        UserInputError: there is no such file or name, or a key or the type of a value is not what Detectron2 knows.
        BrokenInputError: the file is not plain YAML.

    Example:
        >>> load_config("retinanet_tiny", ["SOLVER.BASE_LR=0.001"], num_classes=3).SOLVER.BASE_LR
        0.001
    """
    cfg = config.clone() if isinstance(config, CfgNode) else get_cfg()
    cfg.defrost()
    if not isinstance(config, CfgNode):
        _merge(cfg, config if isinstance(config, Mapping) else read_config(_resolve(config)), "the configuration")
    _merge(cfg, _overrides_as_mapping(overrides), "the overrides")
    if num_classes is not None:
        if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 1:
            raise UserInputError(
                f"Expected argument `num_classes` to be an integer of at least 1, but got {num_classes!r}."
            )
        cfg.MODEL.RETINANET.NUM_CLASSES = num_classes
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    return cfg


def build_detector(cfg: CfgNode, device: str = "cpu") -> nn.Module:
    """Build the detector of a configuration, with fresh weights from torch's global random state.

    ``MODEL.DEVICE`` and ``MODEL.WEIGHTS`` are not read: the Trainer moves the detector, and
    :func:`odsg_lightning.detectors.weights.load.load_weights` loads weights.

    Args:
        cfg: from :func:`load_config`.
        device: where to build it; on ``"meta"`` nothing is allocated.

    Returns:
        Detectron2's own module (``RetinaNet``, ``GeneralizedRCNN``), in training mode.

    Raises:
        UserInputError: a part of the detector that nobody has registered under its name; or a RetinaNet head with group
            normalisation, which Detectron2 0.6 cannot build.
    """
    register_tiny_backbone()
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = device
    try:
        detector: nn.Module = build_model(cfg)
    except KeyError as error:
        unknown = _UNREGISTERED.search(str(error))
        if unknown is None:
            raise
        raise UserInputError(
            f"Expected {unknown[1]!r} to be registered in Detectron2's registry {unknown[2]}, but it is not. If it is "
            "not misspelt, it comes from code of your own, and the command line imports none: in Python, import that "
            "code first, and then call DetectionModule(...), or to audit a checkpoint "
            "odsg_lightning.checkpoints.audit.audit_checkpoint(...)."
        ) from error
    except ValueError as error:
        if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" and cfg.MODEL.RETINANET.NORM and "divisible" in str(error):
            raise UserInputError(
                f"Expected a normalisation that RetinaNet's head can be built with, but got MODEL.RETINANET.NORM = "
                f"{cfg.MODEL.RETINANET.NORM!r}: Detectron2 0.6 makes one of a single channel to learn its name, which "
                "group normalisation refuses. Use Detectron2 0.5 or main, or another normalisation."
            ) from error
        raise
    return detector


def require_upright_boxes(cfg: CfgNode) -> None:
    """Refuse a detector of rotated boxes.

    Raises:
        UserInputError: names its parts that are for them.
    """
    parts = [cfg.MODEL[part].NAME for part in ("ANCHOR_GENERATOR", "PROPOSAL_GENERATOR", "ROI_HEADS")]
    rotated = [name for name in parts if name in _ROTATED]
    if rotated:
        raise UserInputError(
            f"Expected a detector of upright boxes, but got {', '.join(rotated)}: rotated boxes have no x_min, y_min, "
            "x_max, y_max to explain, and boxes of COCO files have no angle to learn."
        )


def require_trainable(cfg: CfgNode) -> None:
    """Refuse what a COCO file as it is read here has nothing to train with.

    Raises:
        UserInputError: says what to do.
    """
    require_upright_boxes(cfg)
    if cfg.MODEL.KEYPOINT_ON:
        raise UserInputError(
            "Expected MODEL.KEYPOINT_ON to be false, because no keypoints are read from annotations. Set it to false "
            "to fine-tune the boxes alone; or train it in a LightningModule of your own, where the callback audits its "
            "boxes as they are."
        )


def class_count(cfg: CfgNode) -> int:
    """Return the number of classes of the detector that :func:`build_detector` builds."""
    section = cfg.MODEL.RETINANET if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" else cfg.MODEL.ROI_HEADS
    return int(section.NUM_CLASSES)


def input_size(cfg: CfgNode) -> tuple[int, int] | None:
    """Return the length of the shorter edge and the limit of the longer one to which images are scaled for detection.

    Returns:
        In pixels; None if it leaves images as they are (``INPUT.MIN_SIZE_TEST`` of 0) or says nothing of use.
    """
    shorter, longer = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    return (shorter, longer) if all(isinstance(edge, int) and edge > 0 for edge in (shorter, longer)) else None


def portable_config(cfg: CfgNode) -> dict[str, Any]:
    """Return what of ``cfg`` differs from Detectron2's defaults, as plain data that :func:`load_config` takes back."""
    return changed_values(cfg, get_cfg())


def _resolve(config: str | Path) -> Path:
    """Tell a bare name, and a name of the model zoo, from a path."""
    path = Path(config).expanduser()
    if path.suffix == ".py":
        raise UserInputError(f"Expected argument `config` to be YAML, but {config} is a Python file. {_LAZY}")
    if path.is_file():
        return path
    names = config_names("detectors")
    if f"detectors/{config}" in names:
        return config_path(f"detectors/{config}")
    zoo = model_zoo_folder()
    if not path.is_absolute() and ".." not in path.parts and (zoo / path).is_file():
        return zoo / path
    known = ", ".join(Path(name).name for name in names)
    close = difflib.get_close_matches(str(config), _zoo_names(zoo), n=1)
    hint = f" Did you mean {close[0]!r}, of Detectron2's model zoo?" if close else ""
    raise UserInputError(
        f"Expected argument `config` to be the path of a YAML file, one of the names {known}, or a name of "
        f"Detectron2's model zoo, but got {str(config)!r}.{hint}"
    )


def model_zoo_folder() -> Path:
    """Return where Detectron2 keeps the configurations of its model zoo; an installation may lack them."""
    return Path(inspect.getfile(get_cfg)).parents[1] / "model_zoo" / "configs"


def _zoo_names(zoo: Path) -> list[str]:
    return [path.relative_to(zoo).as_posix() for path in sorted(zoo.rglob("*.yaml"))]


def _overrides_as_mapping(overrides: Overrides) -> Mapping[str, Any]:
    if isinstance(overrides, Mapping):
        return overrides
    items = [overrides] if isinstance(overrides, str) else [str(item) for item in overrides]
    if all("=" in item for item in items):
        pairs = [item.split("=", 1) for item in items]
    elif len(items) % 2 == 0:
        pairs = [items[index : index + 2] for index in range(0, len(items), 2)]
    else:
        raise UserInputError(
            "Expected argument `overrides` to be a mapping, strings 'KEY=VALUE' or an even number of strings "
            f"'KEY', 'VALUE', but got {items}."
        )
    return {key.strip(): value.strip() for key, value in pairs}


def _merge(cfg: CfgNode, values: Mapping[str, Any], source: str) -> None:
    if "_BASE_" in values:
        raise UserInputError("Expected `_BASE_` in YAML files only: a mapping has no folder to look the base up in.")
    version = values.get("VERSION", cfg.VERSION)
    if version != cfg.VERSION:
        raise UserInputError(f"Expected {source} to have VERSION {cfg.VERSION}, Detectron2's, but got {version!r}.")
    flat = _flatten(values)
    if any(key.endswith("_target_") for key in flat):
        raise UserInputError(f"Expected {source} to have Detectron2's YAML keys, but it is a LazyConfig. {_LAZY}")
    for key in flat:
        _check_key(cfg, key, source)
    try:
        cfg.merge_from_list([item for pair in flat.items() for item in pair])
    except ValueError as error:
        raise UserInputError(f"A value in {source} does not have Detectron2's type. {error}") from error


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _check_key(cfg: CfgNode, key: str, source: str) -> None:
    node: Any = cfg
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            close = difflib.get_close_matches(key, _flatten(cfg), n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise UserInputError(f"Expected {source} to have keys that Detectron2 knows, but got {key!r}.{hint}")
        node = node[part]
    if isinstance(node, Mapping):
        raise UserInputError(f"Expected {key!r} in {source} to be a section with keys of its own, but got a value.")
