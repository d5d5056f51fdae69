"""Names from records of unknown origin, made safe to show."""

import re


def plain(text: str, limit: int = 80) -> str:
    """Return the text with every character that does not print (control, direction, surrogate) replaced, and cut."""
    shown = "".join(character if character.isprintable() else "\ufffd" for character in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def markdown(text: str, limit: int = 80) -> str:
    """Return the text for a cell of a Markdown table: whatever could be markup as a numeric character reference."""
    return re.sub(r"[^\w ./,:;+()-]|_", lambda match: f"&#{ord(match[0])};", plain(text, limit))


def number(value: float | None, signed: bool = False) -> str:
    """Return three digits, or ``-``."""
    return "-" if value is None else f"{value:+.3f}" if signed else f"{value:.3f}"
