"""From whatever the user trains to a detector that can be audited."""

import sys
from importlib import import_module
from typing import Any

from torch import nn

from odsg_lightning.errors import UserInputError
from odsg_lightning.saliency.protocol import Detector

FAMILIES = {
    "detectron2": "RetinaNet or GeneralizedRCNN of Detectron2",
    "torchvision": "RetinaNet, FCOS, SSD or Faster R-CNN of torchvision",
    "transformers": "DETR, Conditional or Deformable DETR, RT-DETR, RT-DETRv2 or D-FINE of transformers",
    "rfdetr": "RF-DETR",
}
"""Package, and what of it is understood.

The module of this folder with the package's name has ``is_detector(module) -> bool`` and ``adapter_of(model,
module) -> Detector``, the module being what the model was found in. It imports the package, so it is imported only
where somebody else has imported the package already.
"""


def resolve_adapter(module: object) -> Detector:
    """Return the detector to audit.

    Understood are, in this order:

    1. an object with a method ``detect(images) -> list[Detections]``
       (:class:`odsg_lightning.saliency.protocol.Detector`), a LightningModule included: it is used as it is;
    2. a detector of one of the :data:`FAMILIES`;
    3. a module (a LightningModule, say) with exactly one of these inside.

    Args:
        module: what the user trains.

    Raises:
        UserInputError: none or several detectors are inside; the message says what was found and what to do.

    Example:
        >>> class Mine:
        ...     def detect(self, images):
        ...         return []
        >>> mine = Mine()
        >>> resolve_adapter(mine) is mine
        True
    """
    if isinstance(module, Detector):
        return module
    loaded = {package: _family(package) for package in FAMILIES if package in sys.modules}
    inside = _outermost(module, loaded) if isinstance(module, nn.Module) else {}
    if len(inside) == 1:
        ((model, package),) = inside.items()
        adapter: Detector = loaded[package].adapter_of(model, module)
        return adapter
    names = ", ".join(f"{type(model).__name__} of {package}" for model, package in inside.items())
    raise UserInputError(
        f"Expected {type(module).__name__} to hold exactly one detector ({'; '.join(FAMILIES.values())}), but found "
        f"{f'{len(inside)} ({names})' if inside else 'none'}. Give it a method "
        "`detect(images) -> list[odsg_lightning.types.Detections]`, or pass `adapter=lambda module: ...` that returns "
        "an object with this method."
    )


def _family(package: str) -> Any:
    return import_module(f"odsg_lightning.detectors.{package}")


def _outermost(module: nn.Module, families: dict[str, Any]) -> dict[nn.Module, str]:
    """Return the detectors inside a module with their packages; one that is registered twice is one."""
    for package, family in families.items():
        if family.is_detector(module):
            return {module: package}
    inside: dict[nn.Module, str] = {}
    for child in module.children():
        inside |= _outermost(child, families)
    return inside
