"""The means and counts of an audit by the names under which the callback logs them. Nothing here loads torch."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from odsg_lightning.names import IOF_NAMES, MAP_NAMES, OCCLUSION_NAMES, PARAMETERS, SUMMARY_NAMES
from odsg_lightning.records.record import ObjectRow


def iof_values(rows: Iterable[ObjectRow]) -> dict[str, NDArray[np.float64]]:
    """Return, for each of ``names.IOF_NAMES``, the values of the detected objects ``[N]``, NaN where undefined."""
    values = [[row.iof[name] for name in IOF_NAMES] for row in rows if row.iof is not None]
    table = np.array(values, dtype=np.float64).reshape(-1, len(IOF_NAMES))
    return dict(zip(IOF_NAMES, table.T, strict=True))


def audit_means(rows: Sequence[ObjectRow]) -> dict[str, float | None]:
    """Return ``iof/...``, ``maps/...``, ``occlusion/...`` and :func:`audit_counts`.

    Undefined values are left out; a mean or a share of nothing is None. The summaries ``iof/object``, ``iof/near``,
    ``iof/edge``, ``iof/middle`` and ``iof/opposite`` are the mean over objects of the mean of the object's defined box
    maps.

    Args:
        rows: all audited objects, missed ones included.
    """
    means = {f"iof/{name}": mean_or_none(values) for name, values in iof_values(rows).items()}
    for region in SUMMARY_NAMES:
        box_means = np.array([row.box_mean(region) for row in rows], dtype=np.float64)
        means[f"iof/{region}"] = mean_or_none(box_means)
    return means | evidence_means(rows) | audit_counts(rows)


def evidence_means(rows: Sequence[ObjectRow]) -> dict[str, float | None]:
    """Return ``maps/...`` and ``occlusion/...``: means over the detected objects, None without a value."""
    values = {f"maps/{name}": [row.box_maps.get(name) for row in rows] for name in MAP_NAMES}
    values |= {f"occlusion/{name}": [row.occlusion.get(name) for row in rows] for name in OCCLUSION_NAMES}
    return {name: mean_or_none(np.array(of_objects, dtype=np.float64)) for name, of_objects in values.items()}


def audit_counts(rows: Sequence[ObjectRow]) -> dict[str, float | None]:
    """Return what there is to count, None for a share of nothing.

    ``audit/recall`` (share of the objects that were detected), ``audit/n_objects``, ``audit/defined`` (share of the
    detected objects' maps with a value), ``audit/n_undefined`` (maps without one), ``audit/match_rate`` (share of the
    noise samples in which a detected object was detected again) and ``audit/samples_per_object`` (noise samples made
    for a detected object).
    """
    detected = [row for row in rows if not row.missed]
    samples = sum(row.n_samples or 0 for row in detected)
    undefined = sum(len(row.undefined) for row in detected)
    return {
        "audit/recall": _share(len(detected), len(rows)),
        "audit/n_objects": float(len(rows)),
        "audit/defined": _share(len(PARAMETERS) * len(detected) - undefined, len(PARAMETERS) * len(detected)),
        "audit/n_undefined": float(undefined),
        "audit/match_rate": _share(sum(row.matched_samples or 0 for row in detected), samples),
        "audit/samples_per_object": _share(samples, len(detected)),
    }


def mean_or_none(values: NDArray[np.float64]) -> float | None:
    """Return the mean of those that are no NaN; None if there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
