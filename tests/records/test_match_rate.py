"""The match rate of objects that a tolerance stops: unbiased, by enumeration of everything that can happen."""

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import product

import pytest
from helpers.records import as_baseline, make_record

from odsg_lightning.records.match_rate import FEWEST_MATCHED, match_rate
from odsg_lightning.records.record import ObjectRow, read_record, write_record
from odsg_lightning.saliency import early_stop

PROBABILITIES = [Fraction(1, 10), Fraction(1, 2), Fraction(9, 10), Fraction(1)]
LIMITS = [(most, settles) for most in (3, 4, 6, 9) for settles in range(FEWEST_MATCHED, most + 2)]
"""Most samples of an object, and with which matched one it settles; the last of each never does."""


def sampled(pattern: tuple[bool, ...], settles: int) -> ObjectRow:
    """The row of an object that settles with so many matches, of samples that match or do not."""
    matched, made = 0, 0
    while made < len(pattern) and matched < settles:
        matched, made = matched + pattern[made], made + 1
    stopped = matched == settles
    return ObjectRow(1, 1, "a.jpg", "cat", matched_samples=matched, n_samples=made, stopped=stopped, iof={})


def expectation(most: int, settles: int, p: Fraction, estimate: Callable[[ObjectRow], Fraction]) -> Fraction:
    """The mean of an estimate over all patterns of matches, each of which comes with the probability p."""
    total = Fraction(0)
    for pattern in product((True, False), repeat=most):
        weight = p ** sum(pattern) * (1 - p) ** (most - sum(pattern))
        total += weight * estimate(sampled(pattern, settles))
    return total


@pytest.mark.parametrize("p", PROBABILITIES)
@pytest.mark.parametrize(("most", "settles"), LIMITS)
def test_its_expectation_is_the_probability_exactly(most, settles, p):
    assert expectation(most, settles, p, match_rate) == p


def share(row: ObjectRow) -> Fraction:
    return Fraction(row.matched_samples, row.n_samples)


def without_entry(most: int) -> Callable[[ObjectRow], Fraction]:
    """What is made of a record that does not say whether the last possible sample stopped an object."""
    return lambda row: match_rate(replace(row, stopped=row.n_samples < most))


@pytest.mark.parametrize("p", PROBABILITIES)
@pytest.mark.parametrize(("most", "settles"), LIMITS)
def test_the_plain_share_is_too_high_where_something_stops(most, settles, p):
    too_high = expectation(most, settles, p, share) - p
    assert (too_high > 0) == (settles < most and p < 1)
    assert too_high >= expectation(most, settles, p, without_entry(most)) - p >= 0
    assert expectation(most, settles, p, without_entry(most)) - p < Fraction(3, 100)


def test_nothing_that_was_not_explained_has_one():
    assert match_rate(ObjectRow(1, 1, "a.jpg", "cat")) is None


def test_the_fewest_matches_are_those_of_the_rule():
    assert early_stop.FEWEST_MATCHED == FEWEST_MATCHED


def stopping_record():
    record = make_record(1, 4, missed=0, match_rate=1.0, fingerprint={"tolerance": 0.01})
    told = [(3, 7, True), (20, 20, True), (20, 20, False), (15, 20, False)]
    rows = zip(record.objects, told, strict=True)
    return replace(
        record,
        objects=tuple(replace(row, matched_samples=m, n_samples=n, stopped=stopped) for row, (m, n, stopped) in rows),
    )


def test_a_record_says_what_the_last_possible_sample_stopped(tmp_path):
    record = stopping_record()
    path = tmp_path / "record.json"
    baseline = replace(as_baseline(record), further=(record,))  # which keeps the further audits in another shape
    write_record(baseline, path)
    read = read_record(path)
    assert read == baseline
    assert [row.stopped for row in read.further[0].objects] == [True, True, False, False]
    content = json.loads(path.read_text())
    assert ["stopped" in row for row in content["objects"]] == [False, True, False, False]


def test_a_record_from_before_counts_it_as_not_stopped(tmp_path):
    path = tmp_path / "record.json"
    write_record(stopping_record(), path)
    content = json.loads(path.read_text())
    del content["objects"][1]["stopped"]
    path.write_text(json.dumps(content))
    rates = [match_rate(row) for row in read_record(path).objects]
    assert rates == [Fraction(1, 3), 1, 1, Fraction(3, 4)]
