"""A change between two records as the page shows it: in which direction, and whether that is good."""

from dataclasses import dataclass
from typing import Literal

from odsg_lightning.text import number

Better = Literal["higher", "lower", "neither"]
"""Which values of a measure are good; ``neither`` if that depends."""

DASH = "\N{EN DASH}"
_MINUS = "\N{MINUS SIGN}"
_UP, _DOWN = "\N{BLACK UP-POINTING TRIANGLE}", "\N{BLACK DOWN-POINTING TRIANGLE}"


@dataclass(frozen=True)
class Change:
    """A difference in three ways, so that none needs the others to be understood.

    Attributes:
        text: with its sign; a dash for none, and no sign for one that rounds to nothing.
        arrow: up or down; empty without a change.
        judgement: ``better`` or ``worse``; empty without a change, and where neither direction is good.
    """

    text: str
    arrow: str = ""
    judgement: Literal["better", "worse", ""] = ""


def change_of(before: float | None, after: float | None, better: Better = "higher", digits: int = 3) -> Change:
    """Return ``after - before``.

    Args:
        before: None if there is none.
        after: likewise.
        better: which values are good.
        digits: behind the point.

    Example:
        >>> change_of(2, 5, "lower", 0)
        Change(text='+3', arrow='▲', judgement='worse')
    """
    return judged(None if before is None or after is None else after - before, better, digits)


def judged(difference: float | None, better: Better = "higher", digits: int = 3) -> Change:
    """Return a difference that is known already; the arguments are those of :func:`change_of`."""
    text = signed(difference, digits)
    if difference is None or text[0] not in f"+{_MINUS}":
        return Change(text)
    rises = difference > 0
    arrow = _UP if rises else _DOWN
    if better == "neither":
        return Change(text, arrow)
    return Change(text, arrow, "better" if rises == (better == "higher") else "worse")


def share(value: float | None, digits: int = 2) -> str:
    """Return a value; a dash for None."""
    return number(value, digits, missing=DASH)


def signed(value: float | None, digits: int = 2) -> str:
    """Return a difference with its sign; one that rounds to nothing has none.

    Example:
        >>> signed(0.126), signed(-0.001)
        ('+0.13', '0.00')
    """
    text = number(value, digits, signed=True, missing=DASH)
    return text[1:] if text.strip("+-0.") == "" else text.replace("-", _MINUS)
