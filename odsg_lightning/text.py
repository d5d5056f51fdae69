"""Values and names of unknown origin as text that is safe to show: on a terminal, in Markdown, in a page."""

import math
import re

REPLACEMENT = "\ufffd"
"""Stands for a character that is not shown."""

# Control characters, lone surrogates (which no file can hold), and what reorders a line: a name could pose as another.
_TREACHEROUS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str, limit: int = 80) -> str:
    r"""Return one line for a terminal or a file: what does not print (control, direction, surrogate) replaced, and cut.

    Example:
        >>> plain("cat\x1b[31m\n", limit=6)
        'cat�[…'
    """
    shown = printable(text[: limit + 1]).replace("\n", REPLACEMENT)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def printable(text: str) -> str:
    """Return a message of several lines with everything replaced that would command a terminal."""
    return "".join(character if character.isprintable() or character == "\n" else REPLACEMENT for character in text)


def markdown(text: str, limit: int = 80) -> str:
    """Return one line for Markdown: whatever could be markup, HTML included, as a numeric character reference.

    Example:
        >>> markdown("a|b")
        'a&#124;b'
    """
    return re.sub(r"[^\w ./,:;+()-]|_", lambda match: f"&#{ord(match[0])};", plain(text, limit))


def for_page(text: str) -> str:
    """Return text for a page whose template escapes markup: without the characters that no page should hold."""
    return _TREACHEROUS.sub(REPLACEMENT, text)


def mean_with_interval(mean: float | None, interval: tuple[float, float] | None, digits: int = 2) -> str:
    """Return a mean, and its interval where there is one.

    Example:
        >>> mean_with_interval(0.5, (0.25, 0.75))
        '0.50 [0.25, 0.75]'
    """
    if interval is None:
        return number(mean, digits)
    low, high = (number(bound, digits) for bound in interval)
    return f"{number(mean, digits)} [{low}, {high}]"


def number(value: float | None, digits: int = 3, *, signed: bool = False, missing: str = "-") -> str:
    """Return a value with so many digits, and ``missing`` for None and NaN.

    Example:
        >>> number(0.25, 2, signed=True), number(None)
        ('+0.25', '-')
    """
    if value is None or math.isnan(value):
        return missing
    shown = 0.0 if abs(value) < 0.5 * 10**-digits else value  # never -0.000
    return f"{shown:{'+' if signed else ''}.{digits}f}"
