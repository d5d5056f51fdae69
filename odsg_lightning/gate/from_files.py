"""Judges record files; whatever is wrong with them becomes part of the result."""

from dataclasses import replace
from pathlib import Path

from odsg_lightning.errors import BrokenInputError
from odsg_lightning.files import regular_file, sha256_of
from odsg_lightning.gate.comparable import differences
from odsg_lightning.gate.comparison import compare
from odsg_lightning.gate.config import GateConfig
from odsg_lightning.gate.floors import compare_with_floors
from odsg_lightning.gate.result import GateResult
from odsg_lightning.records.record import AuditRecord, read_record


def compare_files(
    baseline: Path,
    candidate: Path,
    config: GateConfig | None = None,
    *,
    ignore_seed: bool = False,
    checkpoint: Path | None = None,
) -> GateResult:
    """Judge a candidate's file against a baseline's.

    The baseline must be accepted, and unchanged since, and the candidate not, so that swapped arguments are refused. A
    file that cannot be used gives ``not comparable`` with the reason, so that every output can tell it.

    Args:
        baseline: the accepted record.
        candidate: the record of the candidate.
        config: see :func:`odsg_lightning.gate.comparison.compare`.
        ignore_seed: see there.
        checkpoint: the candidate itself, of which the record must be; None if that need not be shown.
    """
    records: dict[str, AuditRecord] = {}
    reasons = []
    for side, path in (("baseline", baseline), ("candidate", candidate)):
        try:
            records[side] = read_record(path)
        except BrokenInputError as error:
            reasons.append(str(error))
    if len(records) == 2:
        reasons += _wrong_roles(records["baseline"], records["candidate"], baseline, candidate)
    if len(records) == 2:
        reasons += _other_checkpoint(records["candidate"], candidate, checkpoint)
    if not reasons and records["baseline"].content_sha256 != records["baseline"].accepted[-1]["record_sha256"]:
        reasons = [
            f"{baseline} has been changed since it was accepted: its content does not have the hash beside the reason. "
            "Restore it, or accept the audit again (`odsg baseline accept`).",
            *differences(records["baseline"], records["candidate"], ignore_seed=ignore_seed),
        ]
    if reasons:
        result = GateResult("not comparable", reasons=tuple(reasons))
    else:
        result = compare(records["baseline"], records["candidate"], config, ignore_seed=ignore_seed)
    paths = {"baseline": baseline, "candidate": candidate}
    return replace(result, sides={side: _side(path, records.get(side)) for side, path in paths.items()})


def floors_of_file(candidate: Path, config: GateConfig | None = None, *, checkpoint: Path | None = None) -> GateResult:
    """Hold a candidate's file against absolute floors, without a baseline.

    A file that cannot be used gives ``not comparable`` with the reason. The arguments are those of
    :func:`compare_files`.
    """
    record = None
    try:
        record = read_record(candidate)
        reasons = _other_checkpoint(record, candidate, checkpoint)
    except BrokenInputError as error:
        reasons = [str(error)]
    if record is None or reasons:
        return GateResult("not comparable", reasons=tuple(reasons), sides={"candidate": _side(candidate, record)})
    return replace(compare_with_floors(record, config), sides={"candidate": _side(candidate, record)})


def _wrong_roles(baseline: AuditRecord, candidate: AuditRecord, path: Path, candidate_path: Path) -> list[str]:
    if not baseline.is_baseline and candidate.is_baseline:
        return [f"Expected an accepted baseline first, but {candidate_path} is the one: are the arguments swapped?"]
    if not baseline.is_baseline:
        command = f'odsg baseline accept {path} -o baseline.json --reason "..."'
        return [f"Expected {path} to be an accepted baseline, but nobody has accepted it. To do so: {command}"]
    if candidate.is_baseline:
        return [
            f"Expected {candidate_path} to be the audit of a candidate, but it is an accepted baseline: are the "
            "arguments swapped?"
        ]
    return []


def _other_checkpoint(record: AuditRecord, path: Path, checkpoint: Path | None) -> list[str]:
    """Say why a record is not that of a checkpoint; nothing if it is, or if none was named."""
    if checkpoint is None:
        return []
    try:
        actual = sha256_of(regular_file(checkpoint, "the candidate's checkpoint"))
    except BrokenInputError as error:
        return [str(error)]
    told = record.provenance["checkpoint_sha256"]
    if told is None:
        return [f"{path} does not say of which checkpoint it is: audit {checkpoint} with `odsg audit`."]
    if told != actual:
        return [
            f"{path} is the audit of another checkpoint than {checkpoint}, whose hash begins with {actual[:12]}, not "
            f"{told[:12]}. Audit it again (`odsg audit`)."
        ]
    return []


def _side(path: Path, record: AuditRecord | None) -> dict[str, str | None]:
    names = ("checkpoint", "checkpoint_sha256", "git_commit")
    return {"file": str(path), **{name: record.provenance[name] if record else None for name in names}}
