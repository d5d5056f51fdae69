"""The means and counts of an audit by the names under which the callback logs them. Nothing here loads torch."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from odsg_lightning.names import (
    BOX_PARAMETERS,
    EDGE_NAMES,
    IOF_NAMES,
    MAP_NAMES,
    OCCLUSION_NAMES,
    PARAMETERS,
    REGIONS,
    SUMMARY_NAMES,
)
from odsg_lightning.records.match_rate import match_rate
from odsg_lightning.records.record import ObjectRow


def iof_values(rows: Iterable[ObjectRow]) -> dict[str, NDArray[np.float64]]:
    """Return, for each of ``names.IOF_NAMES``, the values of the explained objects ``[N]``, NaN where undefined."""
    values = [[row.iof[name] for name in IOF_NAMES] for row in rows if row.iof is not None]
    table = np.array(values, dtype=np.float64).reshape(-1, len(IOF_NAMES))
    return dict(zip(IOF_NAMES, table.T, strict=True))


def audit_means(rows: Sequence[ObjectRow]) -> dict[str, float | None]:
    """Return ``iof/...``, :func:`evidence_means` and :func:`audit_counts`.

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
    """Return ``maps/...``, ``enrichment/...``, ``position/...`` and ``occlusion/...``: means, None without a value.

    ``enrichment/edge``, ``enrichment/middle``, ``enrichment/opposite`` and ``position/mean`` are means over objects of
    the mean of the object's defined box maps.
    """
    values = {f"maps/{name}": [row.box_maps.get(name) for row in rows] for name in MAP_NAMES}
    values |= {name: [row.edges.get(name) for row in rows] for name in EDGE_NAMES}
    values |= {f"occlusion/{name}": [row.occlusion.get(name) for row in rows] for name in OCCLUSION_NAMES}
    table = {name: np.array(of_objects, dtype=np.float64) for name, of_objects in values.items()}
    summaries = {f"enrichment/{region}": [f"enrichment/{p}/{region}" for p in BOX_PARAMETERS] for region in REGIONS}
    summaries["position/mean"] = [f"position/{parameter}" for parameter in BOX_PARAMETERS]
    table |= {name: mean_of_defined(np.stack([table[n] for n in names]), 0) for name, names in summaries.items()}
    return {name: mean_or_none(of_objects) for name, of_objects in table.items()}


def audit_counts(rows: Sequence[ObjectRow]) -> dict[str, float | None]:
    """Return what there is to count, None for a share of nothing.

    ``audit/recall`` (share of the objects that were detected), ``audit/n_objects``, ``audit/defined`` (share of the
    explained objects' maps with a value), ``audit/n_undefined`` (maps without one), ``audit/match_rate`` (mean of
    :func:`~odsg_lightning.records.match_rate.match_rate`) and ``audit/samples_per_object`` (noise samples made for an
    explained object).
    """
    explained = [row for row in rows if row.explained]
    rates = [rate for rate in map(match_rate, explained) if rate is not None]
    samples, maps = sum(row.n_samples or 0 for row in explained), len(PARAMETERS) * len(explained)
    undefined = sum(len(row.undefined) for row in explained)
    return {
        "audit/recall": _share(sum(not row.missed for row in rows), len(rows)),
        "audit/n_objects": float(len(rows)),
        "audit/defined": _share(maps - undefined, maps),
        "audit/n_undefined": float(undefined),
        "audit/match_rate": float(sum(rates) / len(rates)) if rates else None,
        "audit/samples_per_object": _share(samples, len(explained)),
    }


def trim_extremes(rows: Sequence[ObjectRow]) -> dict[str, float | None]:
    """Return how far a trimmed audit may be from an exact one, None without a value.

    ``audit/trim_dropped`` (``trimmed["dropped"]``, the estimate of what was left out of an object's gradients, its
    largest), and of the objects that were explained with exact windows, too, ``audit/trim_correlation`` (of a map with
    the exact one, the lowest) and ``audit/trim_iof`` (difference of an IOF, the largest).

    Args:
        rows: all audited objects, missed ones included.
    """
    explained = [row.trimmed for row in rows if row.explained]
    correlations, iofs = (
        [value for one in explained if (value := one.get(name)) is not None] for name in ("correlation", "iof")
    )
    return {
        "audit/trim_dropped": max((one.get("dropped") or 0.0 for one in explained), default=None),
        "audit/trim_correlation": min(correlations, default=None),
        "audit/trim_iof": max(iofs, default=None),
    }


def mean_or_none(values: NDArray[np.float64]) -> float | None:
    """Return the mean of those that are no NaN; None if there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None


def mean_of_defined(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Return the mean along an axis of those that are no NaN; NaN where there are none."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = np.where(defined, values, 0).sum(axis=axis) / defined.sum(axis=axis)
    return mean


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
