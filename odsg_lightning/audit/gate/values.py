"""The numbers of a record, one row per object, as arrays."""

import numpy as np
from numpy.typing import NDArray

from odsg_lightning.audit.gate.config import CHECKS
from odsg_lightning.audit.record import AuditRecord, ObjectRow
from odsg_lightning.names import IOF_NAMES

Floats = NDArray[np.float64]


def check_values(record: AuditRecord) -> dict[str, Floats]:
    """Return the values of each of :data:`odsg_lightning.audit.gate.config.CHECKS`.

    Returns:
        By name ``[n_objects]``, 0 to 1, in the order of ``record.objects``. NaN where an object has none: it was missed
        (but for coverage, which is 0 then), or its map is undefined.
    """
    return dict(zip(CHECKS, np.array([_values(row) for row in record.objects], dtype=np.float64).T, strict=True))


def image_index(record: AuditRecord) -> NDArray[np.intp]:
    """Return the image of each object, numbered from 0 in the order of the image ids."""
    return np.unique([row.image_id for row in record.objects], return_inverse=True)[1].astype(np.intp).reshape(-1)


_MISSED = (*[None] * (1 + len(IOF_NAMES)), 0.0, None)


def _values(row: ObjectRow) -> tuple[float | None, ...]:
    if row.iof is None or row.matched_passes is None or not row.n_samples:
        return _MISSED
    return (row.object_iof, *(row.iof[name] for name in IOF_NAMES), 1.0, row.matched_passes / row.n_samples)
