"""Sums up the audited objects into the scalars that are logged."""

import math
from collections.abc import Sequence

import torch

from odsg_lightning.audit.record import ObjectRow
from odsg_lightning.metrics.iof import IntersectionOverForeground
from odsg_lightning.names import IOF_NAMES


def audit_scalars(rows: Sequence[ObjectRow], iof: IntersectionOverForeground) -> dict[str, float]:
    """Return the means of the IOF values, and what there is to count; NaN for a mean or a share of nothing.

    Args:
        rows: all audited objects of all processes.
        iof: starts anew, and keeps the values of these objects; it must not synchronise, as every process has all.
    """
    found = [row for row in rows if row.iof is not None]
    values = [
        [math.nan if (value := row.iof[name]) is None else value for name in IOF_NAMES] for row in found if row.iof
    ]
    iof.reset()
    iof.update(values=torch.tensor(values, dtype=torch.float64).reshape(-1, len(IOF_NAMES)))
    passes = sum(row.n_samples or 0 for row in found)
    return {f"iof/{name}": float(value) for name, value in iof.compute().items()} | {
        "audit/coverage": _share(len(found), len(rows)),
        "audit/n_objects": float(len(rows)),
        "audit/n_undefined": float(sum(len(row.undefined) for row in found)),
        "audit/match_rate": _share(sum(row.matched_passes or 0 for row in found), passes),
        "audit/samples_per_object": _share(passes, len(found)),
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
