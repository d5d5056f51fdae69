from dataclasses import replace

import pytest
from helpers.records import as_missed, as_unjudged, make_record, with_rows, write_record

from odsg_lightning.gate import GateConfig, Rule, compare_with_floors, floors_of_file

GOOD = make_record(20, 3, missed=0)


def by_name(result):
    return {check.name: check for check in result.checks}


def test_a_good_candidate_reaches_every_floor():
    result = compare_with_floors(GOOD)
    assert list(by_name(result)) == [
        *("occlusion/sufficiency (floor)", "occlusion/necessity (floor)", "iof/near (floor)", "defined (floor)")
    ]
    assert {(check.verdict, check.level) for check in result.checks} == {("pass", "warn")}
    assert (result.verdict, result.exit_code(), result.n_accepted) == ("no baseline", 0, 0)
    assert result.warnings == ()


def test_what_lies_below_is_warned_of_and_decides_nothing():
    bad = make_record(20, 3, missed=0, sufficiency=0.2, necessity=0.505)
    result = compare_with_floors(bad)
    found = by_name(result)
    assert found["occlusion/sufficiency (floor)"].verdict == "fail"
    assert found["occlusion/necessity (floor)"].verdict == "inconclusive"
    assert result.warnings[0].startswith("occlusion/sufficiency lies below its floor: mean 0.20")
    assert result.warnings[1].startswith("occlusion/necessity may lie below its floor: mean 0.497 (0.490 to 0.504)")
    assert (result.verdict, result.exit_code(), len(result.warnings)) == ("no baseline", 0, 2)


def test_floors_are_settings():
    config = GateConfig(checks={"recall": Rule(floor=0.9), "defined": Rule(level="off")}, no_baseline={"defined": 0.5})
    result = compare_with_floors(with_rows(GOOD, lambda row: as_missed(row) if row.annotation_id % 2 else row), config)
    assert [(check.name, check.verdict) for check in result.checks] == [("recall (floor)", "fail")]
    nothing = compare_with_floors(GOOD, replace(config, checks={}, no_baseline={}))
    assert nothing.warnings == ("The configuration has no floor.",)


def test_what_was_not_measured_is_said():
    result = compare_with_floors(with_rows(GOOD, as_unjudged))
    assert by_name(result)["occlusion/necessity (floor)"].verdict == "no data"
    assert "occlusion/necessity has no value" in result.warnings[1]


@pytest.mark.parametrize("damage", ["absent", "text"])
def test_a_file_that_cannot_be_used_is_no_pass(tmp_path, damage):
    path = tmp_path / "candidate.json"
    if damage == "text":
        path.write_text("no record")
    result = floors_of_file(path)
    assert (result.verdict, result.exit_code()) == ("not comparable", 3)
    assert "Expected an audit record at" in result.reasons[0]
    write_record(GOOD, path)
    assert floors_of_file(path).sides["candidate"]["file"] == str(path)
