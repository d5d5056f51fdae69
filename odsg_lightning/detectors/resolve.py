"""From whatever the user trains to a detector that can be audited."""

import sys

from torch import nn

from odsg_lightning.errors import UserInputError
from odsg_lightning.saliency.protocol import Detector


def resolve_adapter(module: object) -> Detector:
    """Return the detector to audit.

    Understood are, in this order:

    1. an object with a method ``detect(images) -> list[Detections]``
       (:class:`odsg_lightning.saliency.protocol.Detector`), a LightningModule included: it is used as it is;
    2. a Detectron2 RetinaNet or GeneralizedRCNN;
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
    models = _outermost_detectron2_models(module) if isinstance(module, nn.Module) else []
    if len(models) == 1:
        from odsg_lightning.detectors.detectron2 import Detectron2Adapter

        return Detectron2Adapter(models[0])
    inside = "none" if not models else f"{len(models)} ({', '.join(type(model).__name__ for model in models)})"
    raise UserInputError(
        f"Expected {type(module).__name__} to hold exactly one Detectron2 RetinaNet or GeneralizedRCNN, but found "
        f"{inside}. Give it a method `detect(images) -> list[odsg_lightning.types.Detections]`, or pass "
        "`adapter=lambda module: ...` that returns an object with this method."
    )


def _outermost_detectron2_models(module: nn.Module) -> list[nn.Module]:
    """Return the Detectron2 detectors inside a module, without loading Detectron2 if nobody else has."""
    if "detectron2" not in sys.modules:
        return []
    from odsg_lightning.detectors.detectron2 import SUPPORTED

    if isinstance(module, SUPPORTED):
        return [module]
    models = [model for child in module.children() for model in _outermost_detectron2_models(child)]
    return list(dict.fromkeys(models))  # a module registered twice is one
