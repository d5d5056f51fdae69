"""Why two records cannot be compared, or not in everything, in sentences that say what to do."""

from collections.abc import Sequence

from odsg_lightning.records.record import ABSENT, AuditRecord, differing_entries
from odsg_lightning.text import plain


def differences(baseline: AuditRecord, candidate: AuditRecord, *, ignore_seed: bool = False) -> tuple[str, ...]:
    """Return why two records may not be compared, in sentences; nothing if they may.

    Records are comparable if their audits had the same settings (the fingerprint) and the same objects.
    """
    entries = differing_entries(baseline.fingerprint, candidate.fingerprint)
    if ignore_seed:
        entries.pop("seed", None)
    reasons = [
        f"The audits differ in {plain(name, 40)}: {_shown(before)} in the baseline, {_shown(after)} in the candidate."
        for name, (before, after) in entries.items()
    ]
    if list(entries) == ["seed"]:
        reasons.append("--ignore-seed compares them all the same: part of each change is then the noise of the seeds.")
    earlier = [side for side, record in (("baseline", baseline), ("candidate", candidate)) if _is_earlier(record)]
    if reasons and len(earlier) == 1:
        reasons.append(
            f"The {earlier[0]} is the record of an earlier version, which measured less: audit its checkpoint again "
            "(`odsg audit`)."
        )
    return tuple(reasons) or _other_objects(baseline, candidate)


def without_values(baseline: AuditRecord, candidate: AuditRecord, checks: Sequence[str]) -> tuple[str, ...]:
    """Return why checks have no value to compare, in sentences.

    Args:
        baseline: the accepted record; of several, the first.
        candidate: with the same settings and the same objects.
        checks: their names, with `` (floor)`` behind that of a floor.
    """
    names = list(dict.fromkeys(name.removesuffix(" (floor)") for name in checks))
    if not names:
        return ()
    for side, record in (("baseline", baseline), ("candidate", candidate)):
        if not baseline.further and not any(row.explained for row in record.objects):
            return (
                f"{', '.join(names)}: no values, because the {side} detects none of the {len(record.objects)} objects.",
            )
    if _is_earlier(baseline):
        new = [name for name in names if name == "collapsed" or name.startswith("occlusion/") or name.endswith("near")]
        why = "both records are of an earlier version, which did not measure them"
        remedy = "Audit both checkpoints again (`odsg audit`)"
    else:
        new = [name for name in names if name.startswith("occlusion/")] if not baseline.fingerprint["occlusion"] else []
        why = "both audits were made without hiding pixels (occlusion: False)"
        remedy = "Audit both checkpoints again with occlusion"
    reasons = [f"{', '.join(new)}: no values, because {why}. {remedy}, or {_switched_off(new)}."] if new else []
    others = [name for name in names if name not in new]
    return (*reasons, *(f"{name}: no object has a value to compare; {_switched_off([name])}." for name in others))


def _is_earlier(record: AuditRecord) -> bool:
    """Whether a version that knew neither ``near`` nor occlusion made the audit."""
    return "near_threshold" not in record.fingerprint


def _switched_off(names: Sequence[str]) -> str:
    checks = ", ".join(f"{name}: {{level: off}}" for name in names)
    return f"switch {'it' if len(names) == 1 else 'them'} off in gate.yaml: `checks: {{{checks}}}`"


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
    return "nothing" if value is ABSENT else plain(repr(value), 70)
