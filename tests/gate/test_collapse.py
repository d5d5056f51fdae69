"""A collapse on a part of the images, which hardly moves a mean but widens its interval."""

import numpy as np
import pytest
from helpers.records import as_undefined, make_record, shifted, with_rows
from scipy.stats import beta, binom

from odsg_lightning.gate import GateConfig, Margin, Rule, compare
from odsg_lightning.gate.collapse import exact_interval

QUIET = {"missed": 0.0, "image_sd": 0.0, "object_sd": 0.0}


def collapsed(images: int, count: int, drop: float = 1.0, **rule):
    record = make_record(images, 2, seed=1, missed=0.0)
    candidate = with_rows(record, lambda row: shifted(row, drop) if row.image_id <= count else row)
    result = compare(record, candidate, GateConfig(checks={"collapsed": Rule(**rule)}))
    (check,) = [one for one in result.checks if one.name == "collapsed"]
    return result, check


def test_five_of_twenty_images_at_zero_are_refused():
    result, check = collapsed(20, 5)
    assert (check.verdict, check.baseline, check.candidate, check.threshold) == ("fail", 0.0, 0.25, 0.05)
    assert (check.n_objects, check.n_images) == (40, 20)
    assert (result.verdict, result.exit_code()) == ("regression", 1)
    assert check.sentence == (
        "iof/near has fallen to less than half in 5 of 20 images: share 0.250 (0.087 to 0.491), at most 0.050"
    )


def test_it_sees_what_the_mean_leaves_open():
    result, _ = collapsed(20, 4, drop=0.6)
    verdicts = {one.name: one.verdict for one in result.checks}
    assert (verdicts["iof/near"], verdicts["collapsed"]) == ("inconclusive", "fail")
    assert result.exit_code() == 1
    result, check = collapsed(20, 4, drop=0.6, level="warn")
    assert (check.level, check.verdict, result.verdict) == ("warn", "fail", "pass")


@pytest.mark.parametrize(
    ("images", "verdicts"),
    [
        (4, ["pass", *["inconclusive"] * 4]),  # never fails, and passes only without one
        (8, ["pass", "pass", "inconclusive", "fail"]),
        (16, ["pass", "pass", "inconclusive", "inconclusive", "fail"]),
        (20, ["pass", "pass", "inconclusive", "inconclusive", "fail"]),
        (32, ["pass", "pass", "pass", "inconclusive", "inconclusive", "fail"]),
    ],
)
def test_by_number_of_images(images, verdicts):
    assert [collapsed(images, count)[1].verdict for count in range(len(verdicts))] == verdicts
    if images >= 5:  # the same by the binomial distribution itself: so many would come in less than 2.5 %
        fails = [binom.sf(count - 1, images, 0.05) <= 0.025 for count in range(len(verdicts))]
        assert fails == [verdict == "fail" for verdict in verdicts]


@pytest.mark.parametrize(("left", "verdict"), [(0.44, "fail"), (0.46, "pass")])
def test_half_of_the_image_is_the_line(left, verdict):
    """iof/near is 0.9 in every object: half of it is 0.45."""
    record = make_record(20, 2, iof=0.6, **QUIET)
    candidate = with_rows(record, lambda row: shifted(row, 0.9 - left) if row.image_id <= 8 else row)
    (check,) = [one for one in compare(record, candidate).checks if one.name == "collapsed"]
    assert check.verdict == verdict


def test_an_image_is_its_mean_over_the_maps_defined_in_both():
    record = make_record(20, 2, iof=0.6, **QUIET)
    x_maps = [f"{parameter}/near" for parameter in ("x_min", "x_max")]

    def change(row):  # the x maps at 0.4 and the y maps undefined: 0.4 against 0.9
        return as_undefined(shifted(row, 0.5, x_maps), ("y_min", "y_max")) if row.image_id <= 8 else row

    one_of_two = with_rows(record, lambda row: change(row) if row.annotation_id % 2 else row)
    found = {}
    for name, candidate in (("every object", with_rows(record, change)), ("every second", one_of_two)):
        (found[name],) = [one for one in compare(record, candidate).checks if one.name == "collapsed"]
    assert found["every object"].candidate == 0.4
    assert found["every second"].candidate == 0.0  # 0.65 in the mean


def test_margin_and_level_are_settings():
    assert collapsed(20, 5, margin=Margin(0.25))[1].verdict == "pass"
    assert collapsed(20, 1, margin=Margin(0.0))[1].verdict == "fail"
    assert collapsed(20, 0, margin=Margin(0.0))[1].verdict == "pass"
    record = make_record(20, 2)
    off = GateConfig(checks={"collapsed": Rule(level="off")})
    assert "collapsed" not in {one.name for one in compare(record, record, off).checks}


def test_without_maps_there_is_no_data():
    record = with_rows(make_record(20, 2, missed=0), as_undefined)
    result = compare(record, record)
    (check,) = [one for one in result.checks if one.name == "collapsed"]
    assert (check.verdict, check.n_images) == ("no data", 0)
    assert result.exit_code() == 3
    assert any(reason.startswith("collapsed: no object has a value") for reason in result.reasons)


@pytest.mark.parametrize("tail", [0.025, 0.25])
def test_the_interval_is_that_of_the_beta_distribution(tail):
    for total in (1, 2, 16, 33, 2500):
        for count in sorted({0, 1, total // 7, total // 2, total - 1, total}):
            lower = beta.ppf(tail, count, total - count + 1) if count else 0.0
            upper = beta.ppf(1 - tail, count + 1, total - count) if count < total else 1.0
            np.testing.assert_allclose(exact_interval(count, total, tail), (lower, upper), atol=1e-9)
