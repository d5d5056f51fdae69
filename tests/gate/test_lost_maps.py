"""Maps that become undefined leave every mean: the gate refuses that, however well the rest looks."""

import pytest
from helpers.records import as_undefined, dropped, make_record, shifted, with_rows

from odsg_lightning.gate import GateConfig, Rule, compare
from odsg_lightning.names import BOX_PARAMETERS, PARAMETERS

GOOD = make_record(20, 2, seed=1, missed=0.0)
FOUR = make_record(24, 4, seed=1, missed=0.0, categories=("cat", "dog", "cow", "hen"))
FIRST_FOUR = {1, 2, 3, 4}

LOST = {
    "both y maps, which leaves higher maps": (GOOD, lambda row: as_undefined(row, ("y_min", "y_max"))),
    "three of four box maps": (GOOD, lambda row: as_undefined(row, ("x_min", "x_max", "y_min"))),
    "all box maps of 70 % of the objects": (GOOD, lambda row: as_undefined(row) if row.annotation_id % 10 < 7 else row),
    "all box maps where they have not fallen": (
        dropped(GOOD, 0.4),
        lambda row: row if row.image_id in FIRST_FOUR else as_undefined(row),
    ),
    "all five maps of all objects but a few": (
        GOOD,
        lambda row: row if row.image_id in FIRST_FOUR else as_undefined(row, PARAMETERS),
    ),
    "every map": (GOOD, lambda row: as_undefined(row, PARAMETERS)),
    "the score map alone": (GOOD, lambda row: as_undefined(row, ("score",))),
    "a single box map": (GOOD, lambda row: as_undefined(row, ("x_max",))),
    "all maps of one class of two": (GOOD, lambda row: as_undefined(row, PARAMETERS) if row.category == "cat" else row),
    "all maps of one class of four": (
        FOUR,
        lambda row: as_undefined(row, PARAMETERS) if row.category == "cow" else row,
    ),
    "all box maps of every second image": (GOOD, lambda row: as_undefined(row) if row.image_id % 2 else row),
    "a map of every object, another of each": (
        GOOD,
        lambda row: as_undefined(row, (PARAMETERS[row.annotation_id % len(PARAMETERS)],)),
    ),
}


@pytest.mark.parametrize("case", LOST)
def test_a_candidate_that_lost_maps_is_never_passed(case):
    record, change = LOST[case]
    baseline = FOUR if record is FOUR else GOOD
    result = compare(baseline, with_rows(record, change))
    (defined,) = [check for check in result.checks if check.name == "defined"]
    assert (defined.verdict, defined.level) == ("fail", "error")
    assert result.exit_code() == 1
    assert result.newly_undefined


def test_what_the_candidate_lost_does_not_move_the_means_of_the_others():
    """The y maps lie lower than the x maps: without them the candidate's own mean would rise."""
    record = with_rows(GOOD, lambda row: shifted(row, 0.2, [f"{p}/object" for p in ("y_min", "y_max")]))
    result = compare(record, with_rows(record, lambda row: as_undefined(row, ("y_min", "y_max"))))
    for name in ("iof/object", "iof/near"):
        (check,) = [one for one in result.checks if one.name == name]
        assert check.change == 0
        assert check.baseline == pytest.approx(0.6 if name == "iof/object" else 0.9, abs=0.02)
    assert not result.worst


def test_maps_that_the_baseline_lacks_too_are_no_loss():
    record = with_rows(GOOD, lambda row: as_undefined(row, BOX_PARAMETERS[:2]) if row.image_id % 2 else row)
    assert compare(record, record).verdict == "pass"
    assert compare(record, GOOD).verdict == "pass"  # nor are those that the candidate gained


def test_a_few_lost_maps_are_within_the_margin():
    candidate = with_rows(GOOD, lambda row: as_undefined(row, ("score",)) if row.annotation_id % 10 == 0 else row)
    result = compare(GOOD, candidate)
    assert result.verdict == "pass"
    assert len(result.newly_undefined) == 4


def test_without_the_check_it_would_pass():
    """So that the cases above are refused by nothing else."""
    record, change = LOST["both y maps, which leaves higher maps"]
    off = GateConfig(checks={"defined": Rule(level="off")})
    assert compare(GOOD, with_rows(record, change), off).verdict == "pass"
