"""What the page's tables and figures say of a record, from the values of its objects."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from odsg_lightning.names import BOX_PARAMETERS
from odsg_lightning.records.means import audit_means, iof_values
from odsg_lightning.records.record import AuditRecord
from odsg_lightning.report.changes import Better


@dataclass(frozen=True)
class Measure:
    """A row of the summary.

    Attributes:
        name: of the measure.
        meaning: in a few words.
        key: of the value: :attr:`Numbers.values_by_key`.
        better: which values are good.
        digits: shown behind the point.
        logged: whether it is not in every record, so that its absence tells nothing: a Trainer logs it, or it is new.
    """

    name: str
    meaning: str
    key: str
    better: Better = "higher"
    digits: int = 3
    logged: bool = False


SUMMARY: Mapping[str, tuple[Measure, ...]] = {
    "With pixels hidden": (
        Measure("Sufficiency", "is the object detected when all else is hidden?", "occlusion/sufficiency"),
        Measure("Necessity", "is it no longer detected when the object is hidden?", "occlusion/necessity"),
    ),
    "Saliency maps": (
        Measure("Near IOF", "share of the box maps on the object, grown a little", "iof/near"),
        Measure("Object IOF", "on the object itself", "iof/object"),
        Measure("Edge IOF", "on the third at the parameter's own edge", "iof/edge"),
        Measure("Middle IOF", "on the middle third", "iof/middle", "neither"),
        Measure("Opposite IOF", "on the third across", "iof/opposite", "neither"),
        Measure(
            "Edge enrichment",
            "on the edge third, in multiples of a uniform map",
            "enrichment/edge",
            digits=2,
            logged=True,
        ),
        Measure("Position", "of a map's mass: 0 at its own edge, 1 across", "position/mean", "lower", logged=True),
        Measure("Relevance mass", "share of a map's sum on the object", "maps/relevance_mass"),
        Measure("Pointing game", "maps whose maximum lies on the object", "maps/pointing_game"),
        Measure("Foreground area", "of a map, in areas of the object", "maps/area_ratio", "neither"),
    ),
    "Detection": (
        Measure("Recall", "objects detected, of all", "audit/recall"),
        Measure("Defined maps", "maps with a value, of the detected objects'", "audit/defined"),
        Measure("Match rate", "noise samples in which a detection is found again", "audit/match_rate"),
        Measure("AP50", "average precision at IoU 0.5", "map_50", logged=True),
        Measure("AP", "average precision, COCO's mean", "map", logged=True),
    ),
    "Drift": (
        Measure(
            "Previous audit", "how far the box maps are from its maps, 0 for the same", "drift", "lower", logged=True
        ),
        Measure("Reference", "likewise, from the reference audit's", "drift_ref", "lower", logged=True),
        Measure("Noise", "likewise, the same weights under another seed", "drift_noise", "neither", logged=True),
    ),
    "Counts": (
        Measure("Objects", "in the audit set", "audit/n_objects", "neither", 0),
        Measure("Missed", "without a paired detection", "missed", "lower", 0),
        Measure("Undefined maps", "all zero or not finite, left out of every mean", "audit/n_undefined", "lower", 0),
    ),
}
"""The rows of the summary, by group."""

DRIFT = ("drift", "drift_ref", "drift_noise")
"""Against the previous audit, against the reference, and between two seeds of one audit."""


@dataclass(frozen=True)
class Numbers:
    """The values of one record.

    Attributes:
        record: the record.
    """

    record: AuditRecord

    @cached_property
    def values(self) -> dict[str, NDArray[np.float64]]:
        """See :func:`odsg_lightning.records.means.iof_values`."""
        return iof_values(self.record.objects)

    @cached_property
    def means(self) -> dict[str, float | None]:
        """See :func:`odsg_lightning.records.means.audit_means`."""
        return audit_means(self.record.objects)

    @cached_property
    def values_by_key(self) -> dict[str, float | None]:
        """The means, ``missed``, and what was logged: ``map``, ``map_50`` and :data:`DRIFT`; None for no value."""
        logged = {name: self.average_precision(name) for name in ("map", "map_50")}
        logged |= {kind: self.drift(kind, "pearson") for kind in DRIFT}
        return {**self.means, **logged, "missed": float(sum(row.missed for row in self.record.objects))}

    def defined(self, name: str) -> NDArray[np.float64]:
        """Return the values of one name ``[N]`` without the undefined ones."""
        return self.values[name][~np.isnan(self.values[name])]

    def average_precision(self, name: str) -> float | None:
        """Return ``map`` or ``map_50`` as the Trainer logged it; None if it did not, or had nothing to measure."""
        logged = [self.record.metrics.get(f"{stage}/{name}") for stage in ("val", "test")]
        # COCO's -1: there was no object to find.
        return next((value for value in logged if value is not None and value >= 0), None)

    def drift(self, kind: str, measure: str) -> float | None:
        """Return the mean over the box parameters of what was logged of the maps' drift; None if nothing was."""
        return _mean(self.record.metrics, [f"{kind}/{parameter}/{measure}" for parameter in BOX_PARAMETERS])


def _mean(metrics: Mapping[str, float | None], names: list[str]) -> float | None:
    known = [value for name in names if (value := metrics.get(name)) is not None]
    return sum(known) / len(known) if known else None
