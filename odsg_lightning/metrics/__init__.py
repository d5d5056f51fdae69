"""What is measured on a saliency map: functional forms and torchmetrics classes, loaded on first use (PEP 562)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from odsg_lightning.metrics.deletion import Deletion, Insertion
    from odsg_lightning.metrics.drift import SaliencyDrift
    from odsg_lightning.metrics.edges import Enrichment, Position
    from odsg_lightning.metrics.explanation_accuracy import VisualExplanationAccuracy
    from odsg_lightning.metrics.iof import IntersectionOverForeground
    from odsg_lightning.metrics.occlusion import Occlusion
    from odsg_lightning.metrics.pointing import EnergyPointingGame, PointingGame
    from odsg_lightning.metrics.spread import Compactness, ObjectDiscrimination

__all__ = [
    "Compactness",
    "Deletion",
    "EnergyPointingGame",
    "Enrichment",
    "Insertion",
    "IntersectionOverForeground",
    "ObjectDiscrimination",
    "Occlusion",
    "PointingGame",
    "Position",
    "SaliencyDrift",
    "VisualExplanationAccuracy",
]

_HOME = {
    "Compactness": "spread",
    "Deletion": "deletion",
    "EnergyPointingGame": "pointing",
    "Enrichment": "edges",
    "Insertion": "deletion",
    "IntersectionOverForeground": "iof",
    "ObjectDiscrimination": "spread",
    "Occlusion": "occlusion",
    "PointingGame": "pointing",
    "Position": "edges",
    "SaliencyDrift": "drift",
    "VisualExplanationAccuracy": "explanation_accuracy",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
