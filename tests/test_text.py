"""What is shown of names of unknown origin, and how numbers are."""

import html
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odsg_lightning.text import REPLACEMENT, for_page, markdown, number, plain, printable

TERMINAL = "\x1b]0;owned\x07\x1b[2J\r\x08\x9b31m\x7f"
"""Sets the title of a terminal, clears it, and writes over the line."""

TURNED = "\u202egnp.exe\u2066\u200f"
"""Reads as exe.png: the marks turn the direction of the text."""

STRANGE = st.sampled_from("\x1b\x9b\u202e\ud800\udfff|`*_[](){}<>#&@!~=\\\n\t")
ANY = st.text(STRANGE) | st.text(STRANGE | st.characters())


# One line -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("Straße 犬, 1-2 (x) 🐕", "Straße 犬, 1-2 (x) 🐕"),
        ("a\x1b[0m\nb", "a\ufffd[0m\ufffdb"),
        ("a\tb\r\n", "a\ufffdb\ufffd\ufffd"),
        ("\u202eb", "\ufffdb"),
        ("\ud800", "\ufffd"),
        ("[red]<b>|`", "[red]<b>|`"),  # letters: a terminal runs no markup
    ],
)
def test_plain_by_hand(text, shown):
    assert plain(text) == shown


def test_plain_is_cut_and_says_so():
    assert plain("abcdef", 4) == "abc…"
    assert plain("abcd", 4) == "abcd"
    assert plain("\x1b" * 9, 4) == "\ufffd\ufffd\ufffd…"
    assert plain("x" * 81) == "x" * 79 + "…"
    assert plain("x" * 80) == "x" * 80


@given(ANY, st.integers(1, 100))
def test_plain_is_one_short_line_that_prints_and_can_be_written(text, limit):
    shown = plain(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()
    assert shown.encode().decode() == shown


# Several lines ------------------------------------------------------------------------------------------------------


def test_printable_keeps_lines_and_nothing_that_commands_a_terminal():
    assert printable("Expected a,\nbut got b.\n") == "Expected a,\nbut got b.\n"
    assert not set(printable(TERMINAL + TURNED)) & set("\x1b\x07\r\x08\x9b\x7f\u202e\u2066\u200f")
    assert printable("\x1b[2J") == "\ufffd[2J"


@given(ANY)
def test_printable_has_as_many_characters_and_all_print(text):
    shown = printable(text)
    assert len(shown) == len(text)
    assert shown.replace("\n", "").isprintable()


# Markdown -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a|b<c>_d", "a&#124;b&#60;c&#62;&#95;d"),
        ("Straße 犬, 1-2 (x)", "Straße 犬, 1-2 (x)"),
        ("[x](y)", "&#91;x&#93;(y)"),
        ("**a** `b` ~c~ @d #1", "&#42;&#42;a&#42;&#42; &#96;b&#96; &#126;c&#126; &#64;d &#35;1"),
        ("&lt;", "&#38;lt;"),
        ("a\nb\x1b", "a&#65533;b&#65533;"),
    ],
)
def test_markdown_by_hand(text, written):
    assert markdown(text) == written


@given(ANY, st.integers(1, 100))
def test_markdown_holds_no_markup_and_reads_as_the_plain_text(text, limit):
    written = markdown(text, limit)
    assert not set(written) & set("|`*_[]<>~!@\\\n$^{}=\"'")
    assert html.unescape(written) == plain(text, limit)


# A page -------------------------------------------------------------------------------------------------------------


def test_a_page_keeps_text_and_its_layout_and_nothing_that_deceives():
    assert for_page("<b>a</b>\t犬\n") == "<b>a</b>\t犬\n"  # its template escapes the markup
    assert for_page(TURNED) == "\ufffdgnp.exe\ufffd\ufffd"
    assert for_page("\x00\x07\x1b\x7f\x9b\r\u2028") == REPLACEMENT * 6 + "\u2028"
    assert for_page("\ud800").encode() == b"\xef\xbf\xbd"


@given(ANY)
def test_whatever_a_page_shows_can_be_written_and_is_as_long(text):
    shown = for_page(text)
    assert len(shown) == len(text)
    assert shown.encode().decode() == shown


# Numbers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "options", "shown"),
    [
        (0.25, {}, "0.250"),
        (0.1256, {"digits": 2}, "0.13"),
        (12.0, {"digits": 0}, "12"),
        (0.25, {"digits": 2, "signed": True}, "+0.25"),
        (-0.25, {"digits": 2, "signed": True}, "-0.25"),
        (-0.25, {"digits": 2}, "-0.25"),
        (0, {"signed": True}, "+0.000"),
        (None, {}, "-"),
        (math.nan, {}, "-"),
        (None, {"signed": True, "missing": "none"}, "none"),
    ],
)
def test_number_by_hand(value, options, shown):
    assert number(value, **options) == shown
