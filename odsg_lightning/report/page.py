"""Builds the page: everything that it shows, put into its templates."""

from collections import Counter
from collections.abc import Sequence

from odsg_lightning.errors import UserInputError
from odsg_lightning.gate import GateConfig
from odsg_lightning.report.audits import Audit, differences
from odsg_lightning.report.figures import curves, distributions, drawn, violins
from odsg_lightning.report.gallery import cards
from odsg_lightning.report.numbers import Numbers
from odsg_lightning.report.tables import CATEGORY_COLUMNS, category_rows, summary_rows
from odsg_lightning.report.templating import rendered
from odsg_lightning.report.verdict import verdict_on
from odsg_lightning.viz.violins import MIN_POINTS

MAX_STRIPS = 200
"""Objects that get pictures, by default."""

PAGE_SIZE = 25
"""Objects that are shown at a time, where there are scripts."""


def build_page(
    audits: Sequence[Audit],
    max_strips: int = MAX_STRIPS,
    *,
    gate_config: GateConfig | None = None,
    ignore_seed: bool = False,
) -> str:
    """Return the page on these audits as HTML; the same audits give the same text.

    Args:
        audits: the record to compare with first, the one in question last; at least one. If the first is an accepted
            baseline and the last is not, the page begins with the gate's verdict.
        max_strips: number of objects that get pictures, at most.
        gate_config: of the gate; None for its defaults.
        ignore_seed: the gate compares audits with different seeds of the noise, too.

    Raises:
        BrokenInputError: a picture is damaged.
        UserInputError: ``max_strips`` is negative.
    """
    if max_strips < 0:
        raise UserInputError(f"Expected max_strips to be 0 or more, but got {max_strips}.")
    letters, numbers = [audit.letter for audit in audits], [Numbers(audit.record) for audit in audits]
    objects, chosen = cards(audits, max_strips), drawn(len(audits))
    content = {
        "audits": audits,
        "verdict": verdict_on(audits, gate_config, ignore_seed=ignore_seed),
        "differences": differences(audits),
        "masks": _masks(audits),
        "summary": summary_rows(numbers),
        "category_columns": [title for title, *_ in CATEGORY_COLUMNS],
        "categories": category_rows(numbers),
        "violins": violins([letters[index] for index in chosen], [numbers[index] for index in chosen]),
        "min_points": MIN_POINTS,
        "drawn": [letters[index] for index in chosen],
        "distributions": distributions(letters, numbers),
        "curves": curves(letters, numbers),
        "cards": objects,
        "page_size": PAGE_SIZE,
        "category_counts": sorted(Counter(card.row.category for card in objects).items()),
        "imperfect": sorted(
            (card for card in objects if any(row and (row.missed or row.undefined) for row in card.rows)),
            key=lambda card: card.row.key,
        ),
        "settings": list(dict.fromkeys(name for audit in audits for name in audit.record.fingerprint)),
    }
    return rendered("page.html", content, script="page.js")


def _masks(audits: Sequence[Audit]) -> str | None:
    """``segmentation`` or ``box``: what an object is in all of the records; None if that is not known."""
    told = [audit.record.fingerprint.get("masks") for audit in audits]
    return next((kind for kind in ("segmentation", "box") if all(of_audit == kind for of_audit in told)), None)
