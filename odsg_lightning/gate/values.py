"""The values of audits as arrays: of each object in one record, and those that records have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from odsg_lightning.gate.resampling import Floats
from odsg_lightning.names import BOX_PARAMETERS, IOF_NAMES, OCCLUSION_NAMES, PARAMETERS
from odsg_lightning.records.match_rate import match_rate
from odsg_lightning.records.means import mean_of_defined
from odsg_lightning.records.record import AuditRecord, ObjectRow

_BOX_MEANS = {"iof/near": "near", "iof/object": "object"}
_COLUMNS = (
    *(f"occlusion/{name}" for name in OCCLUSION_NAMES),
    "defined",
    *(f"iof/{name}" for name in IOF_NAMES),
    "recall",
    "match_rate",
)


@dataclass(frozen=True)
class ComparedValues:
    """The values that a candidate has in common with accepted audits, by the name of their check.

    Attributes:
        before: ``[n_objects]`` mean over the accepted audits that have a value; NaN unless the candidate has one, too.
        after: ``[n_objects]`` the candidate's; NaN at the same places.
        offsets: ``[n_audits, n_objects]`` how far each accepted audit lies above ``before``; NaN where it has no value.
    """

    before: Mapping[str, Floats]
    after: Mapping[str, Floats]
    offsets: Mapping[str, Floats]

    def paired(self, name: str) -> NDArray[np.intp]:
        """Return the indices of the objects with a value in both."""
        return np.flatnonzero(~np.isnan(self.before[name]))

    def spread(self, name: str, objects: NDArray[np.intp]) -> float:
        """Return how far the lowest of the accepted audits lies below the mean of all, over these objects."""
        of_audits = mean_of_defined(self.offsets[name][:, objects], axis=1)
        return -float(of_audits[~np.isnan(of_audits)].min(initial=0.0))


def check_values(record: AuditRecord) -> Mapping[str, Floats]:
    """Return the values of each check over all objects that one record answers: all but ``collapsed``.

    Returns:
        By name ``[n_objects]``, 0 to 1, in the order of ``record.objects``. NaN where an object has none: it was missed
        (but for recall, which is 0 then), its map is undefined, or hiding pixels cannot judge it.
    """
    return compared_values([record], record).after


def compared_values(accepted: Sequence[AuditRecord], candidate: AuditRecord) -> ComparedValues:
    """Pair the values of accepted audits with those of a candidate.

    ``iof/object`` and ``iof/near`` are means over the box parameters whose map is defined on both sides, so that a map
    that is lost neither raises nor lowers them.

    Args:
        accepted: at least one.
        candidate: with the same objects in the same order, as all of them.
    """
    tables, new = [_columns(record) for record in accepted], _columns(candidate)
    stacks = {name: np.stack([table[name] for table in tables]) for name in _COLUMNS}
    old = {name: mean_of_defined(stacks[name], axis=0) for name in _COLUMNS}
    before, after, offsets = {}, {}, {}
    for name in _COLUMNS:
        before[name], after[name] = _where_both(old[name], new[name])
        offsets[name] = stacks[name] - old[name]
    for name, region in _BOX_MEANS.items():
        columns = [f"iof/{parameter}/{region}" for parameter in BOX_PARAMETERS]
        maps = _where_both(np.stack([old[column] for column in columns]), np.stack([new[column] for column in columns]))
        before[name], after[name] = (mean_of_defined(side, axis=0) for side in maps)
        above = np.stack([offsets[column] for column in columns])
        offsets[name] = mean_of_defined(np.where(np.isnan(maps[0])[:, None], np.nan, above), axis=0)
    return ComparedValues(before, after, offsets)


def image_index(record: AuditRecord) -> NDArray[np.intp]:
    """Return the image of each object, numbered from 0 in the order of the image ids."""
    return np.unique([row.image_id for row in record.objects], return_inverse=True)[1].astype(np.intp).reshape(-1)


def _columns(record: AuditRecord) -> dict[str, Floats]:
    return dict(zip(_COLUMNS, np.array([_values(row) for row in record.objects], dtype=np.float64).T, strict=True))


def _values(row: ObjectRow) -> tuple[float | None, ...]:
    rate = match_rate(row)
    if row.iof is None or rate is None:
        return (*[None] * (len(_COLUMNS) - 2), 0.0, None)
    return (
        *(row.occlusion.get(name) for name in OCCLUSION_NAMES),
        1 - len(row.undefined) / len(PARAMETERS),
        *(row.iof[name] for name in IOF_NAMES),
        0.0 if row.missed else 1.0,
        float(rate),
    )


def _where_both(one: Floats, other: Floats) -> tuple[Floats, Floats]:
    unpaired = np.isnan(one) | np.isnan(other)
    return np.where(unpaired, np.nan, one), np.where(unpaired, np.nan, other)
