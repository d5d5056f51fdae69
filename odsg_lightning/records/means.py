"""The means and counts of an audit by the names under which the callback logs them. Nothing here loads torch."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from odsg_lightning.names import IOF_NAMES, SUMMARY_NAMES
from odsg_lightning.records.record import ObjectRow


def iof_values(rows: Iterable[ObjectRow]) -> dict[str, NDArray[np.float64]]:
    """Return, for each of ``names.IOF_NAMES``, the values of the detected objects ``[N]``, NaN where undefined."""
    values = [[row.iof[name] for name in IOF_NAMES] for row in rows if row.iof is not None]
    table = np.array(values, dtype=np.float64).reshape(-1, len(IOF_NAMES))
    return dict(zip(IOF_NAMES, table.T, strict=True))


def audit_means(rows: Sequence[ObjectRow]) -> dict[str, float | None]:
    """Return ``iof/...`` and :func:`audit_counts`.

    Undefined values are left out; a mean or a share of nothing is None. The summaries ``iof/object``, ``iof/edge``,
    ``iof/middle`` and ``iof/opposite`` are the mean over objects of the mean of the object's defined box maps.

    Args:
        rows: all audited objects, missed ones included.
    """
    means = {f"iof/{name}": mean_or_none(values) for name, values in iof_values(rows).items()}
    for region in SUMMARY_NAMES:
        box_means = np.array([row.box_mean(region) for row in rows], dtype=np.float64)
        means[f"iof/{region}"] = mean_or_none(box_means)
    return means | audit_counts(rows)


def audit_counts(rows: Sequence[ObjectRow]) -> dict[str, float | None]:
    """Return what there is to count, None for a share of nothing.

    ``audit/recall`` (share of the objects that were detected), ``audit/n_objects``, ``audit/n_undefined`` (maps without
    a value), ``audit/match_rate`` (share of the noise samples in which a detected object was detected again) and
    ``audit/samples_per_object`` (noise samples made for a detected object).
    """
    detected = [row for row in rows if not row.missed]
    samples = sum(row.n_samples or 0 for row in detected)
    return {
        "audit/recall": _share(len(detected), len(rows)),
        "audit/n_objects": float(len(rows)),
        "audit/n_undefined": float(sum(len(row.undefined) for row in detected)),
        "audit/match_rate": _share(sum(row.matched_samples or 0 for row in detected), samples),
        "audit/samples_per_object": _share(samples, len(detected)),
    }


def mean_or_none(values: NDArray[np.float64]) -> float | None:
    """Return the mean of those that are no NaN; None if there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
