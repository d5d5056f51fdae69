"""Whether two records may be compared at all."""

from collections.abc import Mapping
from typing import Any

from odsg_lightning.audit.gate.text import plain
from odsg_lightning.audit.record import AuditRecord

_ABSENT = object()


def differences(baseline: AuditRecord, candidate: AuditRecord, *, ignore_seed: bool = False) -> tuple[str, ...]:
    """Return why not, in sentences; nothing if they may.

    Records are comparable if their audits were told the same (the fingerprint) about the same objects.
    """
    fields = differing_fields(baseline.fingerprint, candidate.fingerprint)
    if ignore_seed:
        fields.pop("seed", None)
    reasons = [
        f"The audits differ in {plain(name, 40)}: {_shown(before)} in the baseline, {_shown(after)} in the candidate."
        for name, (before, after) in fields.items()
    ]
    if list(fields) == ["seed"]:
        reasons.append("--ignore-seed compares them all the same: part of each change is then the noise of the seeds.")
    return tuple(reasons) or _other_objects(baseline, candidate)


def differing_fields(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the fields of two fingerprints that differ, with both values."""
    pairs = {name: (before.get(name, _ABSENT), after.get(name, _ABSENT)) for name in sorted({*before, *after})}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _other_objects(baseline: AuditRecord, candidate: AuditRecord) -> tuple[str, ...]:
    before = {key: row.category for key, row in baseline.by_key.items()}
    after = {key: row.category for key, row in candidate.by_key.items()}
    if before == after:
        return ()
    strange = sorted(before.keys() ^ after.keys()) or sorted(key for key in before if before[key] != after[key])
    image_id, annotation_id = strange[0]
    what = "audited objects" if before.keys() ^ after.keys() else "categories"
    return (
        f"The records say that they have the same audit set, but their {what} differ, first in annotation "
        f"{annotation_id} of image {image_id} ({len(strange)} in all). One of them was changed by hand, or is broken.",
    )


def _shown(value: object) -> str:
    return "nothing" if value is _ABSENT else plain(repr(value), 70)
