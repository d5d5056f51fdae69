"""Accepting audits as the baseline that candidates are compared with, with the reason why."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from odsg_lightning.errors import BrokenInputError, UserInputError
from odsg_lightning.names import OCCLUSION_NAMES
from odsg_lightning.records.maps_file import maps_beside
from odsg_lightning.records.means import audit_means
from odsg_lightning.records.pair import write_pair
from odsg_lightning.records.record import AuditRecord, differing_entries, read_record, write_record
from odsg_lightning.text import plain

SHOWN = (*(f"occlusion/{name}" for name in OCCLUSION_NAMES), "iof/near", "audit/recall")
"""What is said of a baseline when it is accepted."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What was replaced by what.

    Attributes:
        before: means of :data:`SHOWN` of the baseline before, None where one is undefined; None if there was none.
        after: of the new one.
    """

    before: Mapping[str, float | None] | None
    after: Mapping[str, float | None]


def accept_baseline(
    candidate: Path,
    output: Path,
    reason: str,
    *,
    further: Sequence[Path] = (),
    with_maps: bool = True,
    reset: bool = False,
    today: str | None = None,
) -> Accepted:
    """Write a record as the accepted baseline; the reasons of the baseline that is there already are kept.

    Args:
        candidate: the record to accept.
        output: where the baseline is or will be.
        reason: why, for whoever reads it in a year.
        further: audits of other checkpoints, of the same objects under the same settings, that are accepted with it: a
            gate compares with what they all span. Their maps are not kept.
        with_maps: copy the maps beside the candidate to ``<stem of output>.maps.npz``.
        reset: replace a baseline that was audited in another way (another audit set, say), with which every candidate
            since could not be compared.
        today: the date, such as ``2026-01-31``; None for that of today, UTC.

    Raises:
        UserInputError: the reason is blank, the file at ``output`` is a record that nobody has accepted, or it cannot
            be written.
        BrokenInputError: the candidate is no record, is a baseline already, lacks the maps that it names, or differs
            from the baseline in its fingerprint; a further one differs from it in that or in its objects, or is of the
            same checkpoint, or of one that its record does not name; or the file at ``output`` is no record. Nothing is
            written then.
    """
    if not reason.strip():
        raise UserInputError(
            "Expected a reason for accepting the baseline, but got a blank one. Say what changed and why."
        )
    records = {path: _candidate(path) for path in (candidate, *further)}
    if len(records) < 1 + len(further):
        raise UserInputError("Expected each record once, but got one of them twice.")
    _check_alike(records)
    record, *others = records.values()
    existing = _existing(output)
    if existing is not None and not reset:
        _refuse_other_audit(existing, record)
    maps = maps_beside(candidate, record.maps) if with_maps else None
    if with_maps and record.maps is not None and maps is None:
        raise BrokenInputError(
            f"Expected {plain(record.maps['file'])} beside {candidate}, but it is not there. Fetch it, or give "
            "--without-maps."
        )
    accepted = replace(record, further=tuple(AuditRecord(r.fingerprint, r.provenance, r.objects) for r in others))
    entry = {
        "reason": reason.strip(),
        "date": today or datetime.now(UTC).date().isoformat(),
        "record_sha256": accepted.content_sha256,
    }
    history = existing.accepted if existing is not None else ()
    write_pair(
        output,
        None if maps is None else partial(shutil.copyfile, maps.path),
        lambda beside: write_record(replace(accepted, maps=beside, accepted=(*history, entry)), output),
    )
    return Accepted(None if existing is None else _means(existing), _means(record))


def _candidate(path: Path) -> AuditRecord:
    record = read_record(path)
    if record.is_baseline:
        raise BrokenInputError(f"Expected {path} to be the audit of a candidate, but it is a baseline already.")
    return record


def _check_alike(records: Mapping[Path, AuditRecord]) -> None:
    """Refuse records that cannot be accepted together."""
    (first, record), *others = records.items()
    known = {record.provenance["checkpoint_sha256"]: first}
    if others and None in known:
        raise BrokenInputError(
            f"Expected audits made by `odsg audit`, but {first} does not say of which checkpoint it is."
        )
    for path, other in others:
        checkpoint = other.provenance["checkpoint_sha256"]
        fields = ", ".join(plain(name, 40) for name in differing_entries(record.fingerprint, other.fingerprint))
        got = ""
        if fields:
            got = f"{path} differs from {first} in {fields}"
        elif [(r.key, r.category) for r in record.objects] != [(r.key, r.category) for r in other.objects]:
            got = f"{path} has other objects than {first}"
        elif checkpoint is None:
            got = f"{path} does not say of which checkpoint it is"
        elif checkpoint in known:
            got = f"{path} is of the same checkpoint as {known[checkpoint]}"
        if got:
            raise BrokenInputError(f"Expected audits of different checkpoints made in the same way, but {got}.")
        known[checkpoint] = path


def _existing(output: Path) -> AuditRecord | None:
    if not output.is_symlink() and not output.exists():
        return None
    existing = read_record(output)
    if not existing.is_baseline:
        raise UserInputError(f"Expected no file or a baseline at {output}, but got a record that nobody has accepted.")
    return existing


def _refuse_other_audit(existing: AuditRecord, record: AuditRecord) -> None:
    fields = differing_entries(existing.fingerprint, record.fingerprint)
    if fields:
        names = ", ".join(plain(name, 40) for name in fields)
        raise BrokenInputError(
            f"Expected an audit like the baseline's, but it differs in {names}. --reset replaces the baseline all the "
            "same; what was audited in the old way cannot be compared with it."
        )


def _means(record: AuditRecord) -> dict[str, float | None]:
    means = audit_means(record.objects)
    return {name: means[name] for name in SHOWN}
