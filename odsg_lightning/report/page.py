"""Builds the page: everything that it shows, put into its templates."""

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from odsg_lightning import __version__
from odsg_lightning.errors import UserInputError
from odsg_lightning.report.audits import Audit, differences
from odsg_lightning.report.figures import curves, distributions, drawn, violins
from odsg_lightning.report.gallery import cards, status_words
from odsg_lightning.report.numbers import COUNTS, SUMMARY, Numbers
from odsg_lightning.text import for_page, number

MAX_STRIPS = 200
"""Objects that get pictures, by default."""

_DASH, _MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
_TEMPLATES = Path(__file__).parent / "templates"


def build_page(audits: Sequence[Audit], max_strips: int = MAX_STRIPS) -> str:
    """Return the page on these audits as HTML; the same audits give the same text.

    Args:
        audits: the record to compare with first, the one in question last; at least one.
        max_strips: number of objects that get pictures, at most.

    Raises:
        BrokenInputError: a picture is damaged.
        UserInputError: ``max_strips`` is negative.
    """
    if max_strips < 0:
        raise UserInputError(f"Expected max_strips to be 0 or more, but got {max_strips}.")
    letters, numbers = [audit.letter for audit in audits], [Numbers(audit.record) for audit in audits]
    objects, chosen = cards(audits, max_strips), drawn(len(audits))
    script = (_TEMPLATES / "page.js").read_text("utf-8")
    content = {
        "audits": audits,
        "differences": differences(audits),
        "summary": [
            row
            for row in _with_change(SUMMARY, [of_audit.summary for of_audit in numbers])
            if row[0] not in ("AP50", "AP") or any(value is not None for value in row[2])
        ],
        "counts": _with_change(COUNTS, [of_audit.counts for of_audit in numbers]),
        "violins": violins([letters[index] for index in chosen], [numbers[index] for index in chosen]),
        "drawn": [letters[index] for index in chosen],
        "distributions": distributions(letters, numbers),
        "curves": curves(letters, numbers),
        "cards": objects,
        "categories": sorted(Counter(card.row.category for card in objects).items()),
        "imperfect": sorted(
            (card for card in objects if any(row and (row.missed or row.undefined) for row in card.rows)),
            key=lambda card: card.row.key,
        ),
        "settings": list(dict.fromkeys(name for audit in audits for name in audit.record.fingerprint)),
        "version": __version__,
        "style": Markup((_TEMPLATES / "page.css").read_text("utf-8")),
        "script": Markup(script),
        "script_sha256": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    }
    return _environment().get_template("page.html").render(content)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"share": _share, "signed": _signed, "status": status_words}
    return environment


def _with_change(names: Sequence[tuple[str, str]], columns: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    """Return each name with its meaning, its values in all records, and the last one minus the first."""
    return [
        (*name, row, None if row[0] is None or row[-1] is None else row[-1] - row[0])
        for name, row in zip(names, zip(*columns, strict=True), strict=True)
    ]


def _harmless(value: Any) -> Any:
    """Replace the characters of a record's text that no page should hold; the template escapes the rest."""
    return for_page(value) if type(value) is str else value


def _share(value: float | None, digits: int = 2) -> str:
    return number(value, digits, missing=_DASH)


def _signed(value: float | None, digits: int = 2) -> str:
    """A difference with its sign; one that rounds to nothing has none."""
    text = number(value, digits, signed=True, missing=_DASH)
    return text[1:] if text.strip("+-0.") == "" else text.replace("-", _MINUS)
