"""Explainers by the names that the command line, configurations and records use."""

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any

from odsg_lightning.errors import UserInputError
from odsg_lightning.explainers.base import Explainer
from odsg_lightning.explainers.d_rise import DRISE
from odsg_lightning.explainers.grad_cam import GradCAM
from odsg_lightning.explainers.gradient import Gradient
from odsg_lightning.explainers.guided_grad_cam import GuidedGradCAM
from odsg_lightning.explainers.layer_cam import LayerCAM
from odsg_lightning.explainers.lrp import LRP, ContrastiveLRP
from odsg_lightning.explainers.odam import ODAM
from odsg_lightning.explainers.smoothgrad import SmoothGrad
from odsg_lightning.explainers.ss_grad_cam import SSGradCAM, SSGradCAMPlusPlus

EXPLAINERS: dict[str, Callable[..., Explainer]] = {
    "smoothgrad": SmoothGrad,
    "gradient": Gradient,
    "grad_cam": GradCAM,
    "guided_grad_cam": GuidedGradCAM,
    "det_grad_cam": partial(ODAM, parameters=("score",)),
    "odam": ODAM,
    "layer_cam": LayerCAM,
    "ss_grad_cam": SSGradCAM,
    "ss_grad_cam_pp": SSGradCAMPlusPlus,
    "d_rise": DRISE,
    "lrp": LRP,
    "contrastive_lrp": ContrastiveLRP,
}
"""What makes each explainer; its settings are the fields of the class."""


def make_explainer(name: str, **settings: Any) -> Explainer:
    """Return an explainer.

    Args:
        name: a key of :data:`EXPLAINERS`.
        **settings: see its class; the rest are its defaults.

    Raises:
        UserInputError: an unknown name or setting, which lists the known ones; a setting out of range.

    Example:
        >>> make_explainer("odam", layer="res5")
        ODAM(layer='res5', parameters=('x_min', 'y_min', 'x_max', 'y_max', 'score'), sign='positive')
    """
    if name not in EXPLAINERS:
        raise UserInputError(f"Expected an explainer, one of {', '.join(EXPLAINERS)}, but got {name!r}.")
    known = settings_of(name)
    unknown = [setting for setting in settings if setting not in known]
    if unknown:
        raise UserInputError(
            f"Expected settings of {name!r}, any of {', '.join(known)}, but got {', '.join(map(repr, unknown))}."
        )
    return EXPLAINERS[name](**settings)


def settings_of(name: str) -> tuple[str, ...]:
    """Return the names of an explainer's settings."""
    make = EXPLAINERS[name]
    made: Any = make.func if isinstance(make, partial) else make
    return tuple(field.name for field in fields(made))
