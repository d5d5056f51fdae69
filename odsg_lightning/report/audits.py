"""The audits that a page reports on: read, named, and checked against one another."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from odsg_lightning.errors import UserInputError
from odsg_lightning.records.maps_file import MapsFile, maps_beside
from odsg_lightning.records.record import ABSENT, AuditRecord, differing_entries, read_record


@dataclass(frozen=True)
class Audit:
    """One record as the page shows it.

    Attributes:
        letter: A, B, ...: how tables and figures call it.
        name: in full, different for each record of a page.
        path: of the record.
        record: its content.
        maps: the maps beside it, if they are there.
    """

    letter: str
    name: str
    path: Path
    record: AuditRecord
    maps: MapsFile | None


@dataclass(frozen=True)
class Difference:
    """A setting that is not the same in all audits.

    Attributes:
        field: name of the entry of the fingerprint, or ``"objects"``.
        values: of each audit, as text.
    """

    field: str
    values: tuple[str, ...]


def read_audits(paths: Sequence[Path], names: Sequence[str] | None = None) -> list[Audit]:
    """Read records and find their maps.

    Args:
        paths: of the records, the one to compare with first.
        names: one for each record; by default the files' names.

    Raises:
        BrokenInputError: a record, or the file of maps beside it, cannot be used.
        UserInputError: there is no record, or names are not one for each record and different.
    """
    if not paths:
        raise UserInputError("Expected at least one audit record, but got none.")
    names = _unique_names(paths) if names is None else list(names)
    if len(names) != len(paths) or len(set(names)) < len(names) or not all(name.strip() for name in names):
        raise UserInputError(f"Expected {len(paths)} different names, one for each record, but got {names}.")
    audits = []
    for index, (path, name) in enumerate(zip(paths, names, strict=True)):
        record = read_record(path)
        audits.append(Audit(_letter(index), name, path, record, maps_beside(path, record.maps)))
    return audits


def differences(audits: Sequence[Audit]) -> list[Difference]:
    """Return what keeps the audits from being comparable: their settings, and the objects that they speak of."""
    first, *others = [audit.record.fingerprint for audit in audits]
    different = {name for other in others for name in differing_entries(first, other)}
    differences = [
        Difference(name, tuple(_as_text(entries.get(name, ABSENT)) for entries in (first, *others)))
        for name in dict.fromkeys(name for entries in (first, *others) for name in entries)
        if name in different
    ]
    keys = [audit.record.by_key.keys() for audit in audits]
    if any(of_audit != keys[0] for of_audit in keys):
        values = tuple(f"{len(of_audit)}, {len(of_audit & keys[0])} of them in A" for of_audit in keys)
        differences.append(Difference("objects", values))
    return differences


def _letter(index: int) -> str:
    """A to Z, then AA, AB, ..."""
    letters = string.ascii_uppercase
    return letters[index] if index < len(letters) else _letter(index // len(letters) - 1) + letters[index % 26]


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """The files' stems; with their folder where stems coincide, and numbered where that does, too."""
    stems = [path.stem for path in paths]
    names = [
        stem if stems.count(stem) == 1 else f"{path.absolute().parent.name}/{stem}"
        for stem, path in zip(stems, paths, strict=True)
    ]
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            names[index] = f"{name} ({seen[name]})"
    return names


def _as_text(value: object) -> str:
    return "(absent)" if value is ABSENT else "none" if value is None else str(value)
