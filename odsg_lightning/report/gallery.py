"""The objects as the page lists them, worst first, with the pictures that fit."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from odsg_lightning.records.maps_file import Key
from odsg_lightning.records.record import ObjectRow
from odsg_lightning.report.audits import Audit
from odsg_lightning.report.changes import Change, judged
from odsg_lightning.report.pictures import Row, strip_rows

MAX_PICTURE_BYTES = 32 * 2**20
"""Of all strips of a page together: beyond it the page would be a burden to send and to open."""


@dataclass(frozen=True)
class Strip:
    """The pictures of one object in one record.

    Attributes:
        letter: of its record.
        name: of its record.
        rows: of panels.
    """

    letter: str
    name: str
    rows: list[Row]

    @property
    def size(self) -> int:
        """Bytes in the page."""
        return sum(len(row.url) for row in self.rows)


@dataclass
class Card:
    """One object in all records.

    Attributes:
        row: of the last record that speaks of it.
        rows: of each record; None where a record does not speak of it.
        change: IOF on the object in the last record minus that in the first, a lost value counting as 0; None where the
            first has none or there is one record.
        strips: of the first and of the last record, as far as they are there.
        notes: why a picture is not there.
        left_out: whether its pictures are left out for the page's size.
    """

    row: ObjectRow
    rows: list[ObjectRow | None]
    change: float | None
    strips: list[Strip] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: bool = False

    @property
    def last(self) -> ObjectRow | None:
        """The object in the last record."""
        return self.rows[-1]

    @property
    def iof(self) -> float | None:
        """IOF on the object in the last record."""
        return None if self.last is None else self.last.object_iof

    def last_occlusion(self, name: str) -> float | str:
        """Return a value of ``names.OCCLUSION_NAMES`` in the last record; empty if there is none."""
        value = None if self.last is None else self.last.occlusion.get(name)
        return "" if value is None else value

    @property
    def shown_change(self) -> Change:
        """:attr:`change` as the page shows it."""
        return judged(self.change, digits=2)

    @property
    def statuses(self) -> list[str]:
        """What a filter can ask for: ``missed``, ``newly-missed``, ``undefined``; of the last record."""
        first, last = self.rows[0], self.last
        if last is None:
            return []
        newly = len(self.rows) > 1 and first is not None and not first.missed
        words = (["missed"] + ["newly-missed"] * newly) if last.missed else []
        return words + ["undefined"] * bool(last.undefined)


def cards(audits: Sequence[Audit], max_strips: int) -> list[Card]:
    """Return the objects of all records, worst first: those whose IOF on the object fell most, then the lowest.

    Args:
        audits: the record to compare with first, the one in question last.
        max_strips: number of objects that get pictures, at most; :data:`MAX_PICTURE_BYTES` may end them before.

    Raises:
        BrokenInputError: a picture is damaged.
    """
    keys = {key for audit in audits for key in audit.record.by_key}
    result = sorted((_card(audits, key) for key in keys), key=_badness)
    room, pictured = MAX_PICTURE_BYTES, 0
    for card in result:
        if pictured == max_strips or room <= 0:
            card.left_out = any(_has_maps(audit, card.row.key) for audit in _shown(audits))
            continue
        strips = _strips(audits, card)
        room -= sum(strip.size for strip in strips)
        if room < 0:
            card.left_out = True
            continue
        card.strips = strips
        pictured += bool(strips)
    return result


def status_words(row: ObjectRow | None) -> str:
    """Return what a record says of an object, in words."""
    if row is None:
        return "not audited"
    words = ["missed"] * row.missed
    words += [f"undefined: {', '.join(row.undefined)}"] * bool(row.undefined)
    return "; ".join(words) or "detected"


def _card(audits: Sequence[Audit], key: Key) -> Card:
    rows = [audit.record.by_key.get(key) for audit in audits]
    before = rows[0].object_iof if rows[0] is not None and len(rows) > 1 else None
    last = rows[-1]
    change = None if before is None or last is None else (last.object_iof or 0.0) - before
    return Card(next(row for row in reversed(rows) if row is not None), rows, change)


def _badness(card: Card) -> tuple[bool, float, bool, float, Key]:
    """Sort by change where there is one, then by the value itself."""
    iof = card.iof
    return card.change is None, card.change or 0.0, iof is None, iof or 0.0, card.row.key


def _shown(audits: Sequence[Audit]) -> list[Audit]:
    return [audits[0], audits[-1]] if len(audits) > 1 else [audits[0]]


def _has_maps(audit: Audit, key: Key) -> bool:
    return audit.maps is not None and key in audit.maps.keys


def _strips(audits: Sequence[Audit], card: Card) -> list[Strip]:
    """Embed the object's pictures, and note in the card which are not there."""
    strips = []
    for audit in _shown(audits):
        row = audit.record.by_key.get(card.row.key)
        if audit.maps is None or row is None or row.iof is None:
            continue
        content = audit.maps.strip(row.key)
        if not content:
            card.notes.append(f"{audit.letter}: the maps hold no picture of this object.")
            continue
        strips.append(Strip(audit.letter, audit.name, strip_rows(content, row, audit.name)))
    return strips
