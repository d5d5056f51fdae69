"""The means of a record by the names under which the callback logs them. Nothing here loads torch."""

import numpy as np
from numpy.typing import NDArray

from odsg_lightning.audit.record import AuditRecord
from odsg_lightning.names import BOX_PARAMETERS, IOF_NAMES, SUMMARY_NAMES


def iof_values(record: AuditRecord) -> dict[str, NDArray[np.float64]]:
    """Return, for each of ``names.IOF_NAMES``, the values of the detected objects ``[N]``, NaN where undefined."""
    rows = [[row.iof[name] for name in IOF_NAMES] for row in record.objects if row.iof is not None]
    table = np.array(rows, dtype=np.float64).reshape(-1, len(IOF_NAMES))
    return dict(zip(IOF_NAMES, table.T, strict=True))


def audit_means(record: AuditRecord) -> dict[str, float | None]:
    """Return ``iof/...``, ``audit/coverage`` and ``audit/match_rate``.

    Undefined values are left out; a mean or a share of nothing is None. The summaries ``iof/object``, ``iof/edge``,
    ``iof/middle`` and ``iof/opposite`` are the mean over objects of the mean of the object's defined box maps.
    """
    values = iof_values(record)
    means = {f"iof/{name}": mean_or_none(of_objects) for name, of_objects in values.items()}
    for region in SUMMARY_NAMES:
        table = np.stack([values[f"{parameter}/{region}"] for parameter in BOX_PARAMETERS])
        defined = (~np.isnan(table)).sum(axis=0)
        means[f"iof/{region}"] = mean_or_none(np.nansum(table, axis=0)[defined > 0] / defined[defined > 0])
    found = [row for row in record.objects if not row.missed]
    passes = sum(row.n_samples or 0 for row in found)
    means["audit/coverage"] = len(found) / len(record.objects)
    means["audit/match_rate"] = sum(row.matched_passes or 0 for row in found) / passes if passes else None
    return means


def mean_or_none(values: NDArray[np.float64]) -> float | None:
    """Return the mean of those that are no NaN; None if there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None
