"""From the settings of an audit to its explainer."""

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.explainers.base import Explainer
from odsg_lightning.explainers.gradient import Gradient
from odsg_lightning.explainers.smoothgrad import SmoothGrad


def explainer_of(config: AuditConfig) -> Explainer:
    """Return the explainer that an audit asks for by name, with the audit's settings."""
    gradient = Gradient(config.engine, config.precision)
    if config.explainer == "gradient":
        return gradient
    return SmoothGrad(gradient, config.n_samples, config.sigma, config.tolerance)
