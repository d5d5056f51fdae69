"""Which objects fell: the evidence behind a verdict."""

from typing import TypedDict

from odsg_lightning.audit.gate.result import ChangedObject
from odsg_lightning.audit.record import AuditRecord

SHOWN = 5
"""Objects of each kind that are named; there may be thousands."""


class Changed(TypedDict):
    """Of :class:`odsg_lightning.audit.gate.result.GateResult`."""

    worst: tuple[ChangedObject, ...]
    newly_missed: tuple[ChangedObject, ...]
    newly_undefined: tuple[ChangedObject, ...]


def changed_objects(baseline: AuditRecord, candidate: AuditRecord) -> Changed:
    """Return the objects with the largest falls of ``iof/object``, and all that were lost."""
    fallen, missed, undefined = [], [], []
    for before in baseline.objects:
        after = candidate.by_key[before.key]
        if before.missed:
            continue
        changed = ChangedObject(*before.key, before.file_name, before.category, before.object_iof, after.object_iof)
        if after.missed:
            missed.append(changed)
            continue
        if set(after.undefined) - set(before.undefined):
            undefined.append(changed)
        if changed.baseline is not None and changed.candidate is not None and changed.candidate < changed.baseline:
            fallen.append((changed.candidate - changed.baseline, changed.key, changed))
    worst = tuple(changed for _, _, changed in sorted(fallen, key=lambda entry: entry[:2])[:SHOWN])
    return Changed(worst=worst, newly_missed=tuple(missed), newly_undefined=tuple(undefined))
