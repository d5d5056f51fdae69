"""What an audit shows on standard error of how far it is."""

import sys

import pytest

from odsg_lightning.audit import progress
from odsg_lightning.audit.progress import audit_progress


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        seconds = 1000.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.seconds)
    return Clock


def test_a_line_a_minute_with_the_time_left_where_there_is_no_terminal(clock, capsys):
    with audit_progress(images=10, samples_per_image=20) as (on_sample, _):
        for _ in range(100):
            clock.seconds += 3.0
            on_sample()
    assert capsys.readouterr().err.splitlines() == [
        "Audit: 20 of 200 noise samples after 1 min, about 9 min left.",
        "Audit: 40 of 200 noise samples after 2 min, about 8 min left.",
        "Audit: 60 of 200 noise samples after 3 min, about 7 min left.",
        "Audit: 80 of 200 noise samples after 4 min, about 6 min left.",
        "Audit: 100 of 200 noise samples after 5 min, about 5 min left.",
    ]


def test_an_audit_of_less_than_a_minute_says_nothing(clock, capsys):
    with audit_progress(images=1, samples_per_image=20) as (on_sample, _):
        for _ in range(20):
            clock.seconds += 2.9
            on_sample()
    assert capsys.readouterr().err == ""


def test_images_of_an_earlier_call_do_not_make_the_rest_look_fast(clock, capsys):
    with audit_progress(images=100, samples_per_image=1) as (on_sample, on_finished_image):
        for _ in range(80):
            on_finished_image()
        clock.seconds += 3600
        on_sample()
    assert capsys.readouterr().err == "Audit: 81 of 100 noise samples after 1 h 0 min, about 19 h 0 min left.\n"


def test_a_terminal_shows_a_bar_with_the_time_left(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with audit_progress(images=2, samples_per_image=3) as (on_sample, on_finished_image):
        on_finished_image()
        for _ in range(3):
            on_sample()
    shown = capsys.readouterr().err
    assert "100%" in shown
    assert "3/3 [00:00<00:00" in shown
