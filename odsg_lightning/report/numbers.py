"""What the page's tables and figures say of a record, from the values of its objects."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from odsg_lightning.names import BOX_PARAMETERS, SUMMARY_NAMES
from odsg_lightning.records.means import audit_means, iof_values
from odsg_lightning.records.record import AuditRecord

SUMMARY = (
    ("Object IOF", "share of the box maps on the object"),
    ("Edge IOF", "on the third at the parameter's own edge"),
    ("Middle IOF", "on the middle third"),
    ("Opposite IOF", "on the third across"),
    ("Recall", "objects detected, of all"),
    ("Match rate", "noise samples in which a detection is found again"),
    ("AP50", "average precision at IoU 0.5"),
    ("AP", "average precision, COCO's mean"),
)
"""The shares of the summary and what they mean, in the order of :attr:`Numbers.summary`."""

COUNTS = (
    ("Objects", "in the audit set"),
    ("Missed", "without a paired detection"),
    ("Undefined maps", "all zero or not finite, left out of every mean"),
)
"""The counts of the summary, in the order of :attr:`Numbers.counts`."""

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

    @property
    def summary(self) -> list[float | None]:
        """The values of :data:`SUMMARY`."""
        names = [*(f"iof/{region}" for region in SUMMARY_NAMES), "audit/recall", "audit/match_rate"]
        return [*(self.means[name] for name in names), self.average_precision("map_50"), self.average_precision("map")]

    @property
    def counts(self) -> list[int]:
        """The values of :data:`COUNTS`."""
        rows = self.record.objects
        return [len(rows), sum(row.missed for row in rows), sum(len(row.undefined) for row in rows)]


def _mean(metrics: Mapping[str, float | None], names: list[str]) -> float | None:
    known = [value for name in names if (value := metrics.get(name)) is not None]
    return sum(known) / len(known) if known else None
