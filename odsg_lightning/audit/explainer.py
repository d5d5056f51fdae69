"""From the settings of an audit to its explainer, and back to what a record says of it."""

from typing import Any

from odsg_lightning.audit.config import OF_GRADIENTS, AuditConfig
from odsg_lightning.explainers.base import Explainer, check_gives
from odsg_lightning.explainers.by_name import make_explainer, settings_of
from odsg_lightning.explainers.gradient import Gradient
from odsg_lightning.explainers.smoothgrad import SmoothGrad
from odsg_lightning.names import PARAMETERS

_EVERY_MAP = {"parameters": PARAMETERS}


def explainer_of(config: AuditConfig) -> Explainer:
    """Return the explainer that an audit asks for by name, with the audit's settings.

    Raises:
        UserInputError: it does not give maps of all five numbers, or has no such setting.
    """
    gradient = Gradient(config.engine, config.precision, config.trim)
    if config.explainer == "gradient":
        return gradient
    if config.explainer == "smoothgrad":
        return SmoothGrad(gradient, config.n_samples, config.sigma, config.tolerance)
    every_map = _EVERY_MAP if "parameters" in settings_of(config.explainer) else {}
    explainer = make_explainer(config.explainer, **{**every_map, **(config.explainer_settings or {})})
    check_gives(explainer, PARAMETERS)
    return explainer


def explainer_fingerprint(config: AuditConfig) -> dict[str, Any]:
    """Return the settings of another explainer than the gradient's, defaults too, as ``explainer/<name>``."""
    if config.explainer in OF_GRADIENTS:
        return {}
    explainer = explainer_of(config)
    names = [name for name in settings_of(config.explainer) if name not in _EVERY_MAP]
    return {f"explainer/{name}": getattr(explainer, name) for name in names}
