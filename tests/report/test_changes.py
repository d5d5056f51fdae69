import pytest

from odsg_lightning.report.changes import Change, change_of, judged, signed

MINUS = "\N{MINUS SIGN}"


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (None, 2, "\N{EN DASH}"),
        (0.0, 2, "0.00"),
        (-0.001, 2, "0.00"),
        (0.126, 2, "+0.13"),
        (-0.5, 2, f"{MINUS}0.50"),
        (-3, 0, f"{MINUS}3"),
    ],
)
def test_differences_have_a_sign(value, digits, text):
    assert signed(value, digits) == text


@pytest.mark.parametrize(
    ("better", "rise", "fall"), [("higher", "better", "worse"), ("lower", "worse", "better"), ("neither", "", "")]
)
def test_the_arrow_follows_the_change_and_the_judgement_the_measure(better, rise, fall):
    assert change_of(0.25, 0.5, better) == Change("+0.250", "▲", rise)
    assert change_of(0.5, 0.25, better) == Change(f"{MINUS}0.250", "▼", fall)


def test_what_rounds_to_nothing_is_no_change():
    assert judged(-0.0004) == Change("0.000")
    assert judged(-0.0006).judgement == "worse"


def test_without_a_value_there_is_no_change():
    assert change_of(None, 0.5) == change_of(0.5, None) == Change("\N{EN DASH}")
