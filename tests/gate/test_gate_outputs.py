import io
import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from helpers.records import as_baseline, as_missed, dropped, make_record, with_rows, write_with_maps
from PIL import Image

from odsg_lightning.errors import BrokenInputError, UserInputError
from odsg_lightning.gate import CheckResult, GateConfig, GateResult, Rule, compare
from odsg_lightning.gate.outputs.as_json import SCHEMA, result_as_json, write_json
from odsg_lightning.gate.outputs.junit import write_junit
from odsg_lightning.gate.outputs.strips import with_strips
from odsg_lightning.gate.outputs.summary import append_summary, result_as_markdown
from odsg_lightning.gate.outputs.terminal import print_result

EVIL = "[red]<script>\x1b[31m\x07\u202e\ud800\n# |`*_[x](http://e)</script>&amp;"


def printed(result, strict=False, encoding="utf-8"):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    print_result(result, strict, file)
    file.flush()
    return raw.getvalue().decode(encoding)


def check(name="iof/object", level="error", verdict="pass", **values):
    numbers = {"baseline": 0.6, "candidate": 0.58, "lower": -0.03, "upper": -0.01, "threshold": -0.05}
    return CheckResult(name, level, verdict, **(numbers | {"n_objects": 60, "n_images": 20} | values))


@pytest.fixture
def regression():
    record = make_record(20, 6, missed=0)
    candidate = with_rows(dropped(record, 0.2), lambda row: as_missed(row) if row.annotation_id % 20 == 1 else row)
    return compare(record, candidate, GateConfig(checks={"iof/object": Rule(floor=0.1)}))


@pytest.fixture
def evil():
    record = with_rows(
        make_record(20, 3, missed=0),
        lambda row: replace(row, category=EVIL, file_name=EVIL) if row.annotation_id % 2 else row,
    )
    lost = with_rows(dropped(record, 0.2), lambda row: as_missed(row) if row.annotation_id == 1 else row)
    return compare(record, lost)


# Terminal -----------------------------------------------------------------------------------------------------------


def test_table_fits_80_columns_and_needs_no_colour(regression):
    text = printed(regression)
    table = text[: text.index("Largest falls")]
    assert max(map(len, table.splitlines())) <= 80
    assert "\x1b" not in text
    assert "..." not in table
    assert "…" not in table
    assert re.search(r"^iof/object +FAIL +", text, re.MULTILINE)
    assert re.search(r"^iof/object \(floor\) +PASS +", text, re.MULTILINE)
    assert re.search(r"^collapsed +PASS +0.000 0.000 \+0.000 \[\+0.000, \+0.168\] +\+0.050$", text, re.MULTILINE)
    assert text.splitlines()[-1] == "REGRESSION: iof/object."


@pytest.mark.parametrize(
    ("verdict", "strict", "last"),
    [
        ("inconclusive", False, "INCONCLUSIVE: iof/object, which passes without --strict."),
        ("inconclusive", True, "INCONCLUSIVE: iof/object, which --strict refuses."),
        ("fail", False, "REGRESSION: iof/object."),
        ("pass", False, "PASS: 60 objects in 20 images."),
    ],
)
def test_last_line_says_the_verdict(verdict, strict, last):
    overall = {"fail": "regression"}.get(verdict, verdict)
    result = GateResult(overall, checks=(check(verdict=verdict),), n_images=20, n_objects=60)
    text = printed(result, strict)
    assert text.splitlines()[-1].startswith(last)
    assert verdict.upper() in text.splitlines()[1]


def test_longest_rows_fit(regression):
    longest = [
        check(name, verdict="inconclusive", baseline=0.1, candidate=0.9, lower=-0.8, upper=0.9)
        for name in ("occlusion/sufficiency", "iof/x_min/opposite", "iof/score/object", "match_rate")
    ]
    floor = {"verdict": "inconclusive", "lower": 0.5, "upper": 0.6, "baseline": None}
    longest.append(check("occlusion/sufficiency (floor)", **floor))
    longest.append(check("recall (floor)", verdict="inconclusive", lower=0.5, upper=0.6, baseline=None))
    longest.append(check("iof/x_min/object", verdict="no data", **dict.fromkeys(("lower", "upper", "threshold"))))
    text = printed(GateResult("inconclusive", checks=tuple(longest)))
    assert max(map(len, text.splitlines()[:9])) <= 80
    assert "\nocclusion/sufficiency INCONCLUSIVE" in text
    assert "\n(floor) " in text
    assert "…" not in text
    assert "mean in [0.500, 0.600]" in text
    assert "+0.800 [-0.800, +0.900]" in text


def test_what_decides_comes_first_and_the_rest_under_its_own_line(regression):
    lines = printed(regression).splitlines()
    at = lines.index(next(line for line in lines if line.startswith("these only warn:")))
    names = [[line.split()[0] for line in part if line] for part in (lines[1:at], lines[at + 1 :])]
    decide = ["occlusion/sufficiency", "occlusion/necessity", "defined"]
    assert names[0] == [*decide, "iof/object", "iof/object", "collapsed"]
    assert names[1][:3] == ["iof/near", "recall", "iof/x_min/edge"]


def test_passed_categories_are_counted_and_others_shown():
    record = make_record(30, 4, missed=0, categories=["cat", "dog"])
    candidate = with_rows(record, lambda row: dropped(replace(record, objects=(row,)), 0.3).objects[0])
    assert "iof/near[cat]" in printed(compare(record, candidate))
    same = printed(compare(record, record))
    assert "iof/near[cat]" not in same
    assert "8 checks of categories passed." in same


def test_warnings_and_what_was_left_out_are_shown():
    record = make_record(4, 3, categories=["cat", "dog", "cow"])
    text = printed(compare(record, record))
    assert "Warning: The audit set has only 4 images" in text
    assert "12 checks of categories left out:" in text
    assert "objects in 4 images to compare, needs 20 in 5" in text
    assert "Fewer than 5 images, so the range of their means stands for the interval: occlusion/sufficiency" in text


def test_nothing_of_a_record_reaches_the_terminal_as_markup_or_control(evil):
    text = printed(evil)
    assert "<script>" in text  # as it is: a terminal runs no HTML
    assert "[red]" in text  # as letters, not as a colour
    assert not set(text) & set("\x1b\x07\u202e\ud800\r")
    assert printed(evil, encoding="ascii")


# JSON ---------------------------------------------------------------------------------------------------------------


def test_json_has_every_documented_key_and_exact_names(regression, evil, tmp_path):
    write_json(regression, tmp_path / "out.json", strict=True)
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["schema"] == SCHEMA == "odsg-gate-result/2"
    assert (content["verdict"], content["exit_code"], content["strict"]) == ("regression", 1, True)
    by_name = {one["name"]: one for one in content["checks"]}
    assert (by_name["iof/object"]["verdict"], by_name["iof/object"]["level"]) == ("fail", "error")
    assert by_name["iof/object"]["change"] == pytest.approx(-0.2, abs=1e-3)
    assert content["n_accepted"] == 1
    assert [name for name, one in by_name.items() if not one["higher_is_better"]] == ["collapsed"]
    assert len(content["worst"]) == 5
    assert set(content["worst"][0]) == {
        *("image_id", "annotation_id", "file_name", "category", "baseline", "candidate", "strip")
    }
    from odsg_lightning.gate.outputs import as_json

    assert [key for key in content if f"``{key}``" not in as_json.__doc__] == []
    assert result_as_json(evil)["newly_missed"][0]["category"] == EVIL


def test_json_of_any_outcome_has_the_same_keys(regression):
    refused = GateResult("not comparable", reasons=("broken",))
    assert set(result_as_json(refused)) == set(result_as_json(regression))
    assert json.dumps(result_as_json(refused), allow_nan=False)


# JUnit --------------------------------------------------------------------------------------------------------------

CASES = [
    ("error", "pass", False, None),
    ("error", "fail", False, "failure"),
    ("error", "inconclusive", False, "skipped"),
    ("error", "inconclusive", True, "failure"),
    ("error", "no data", False, "error"),
    ("warn", "fail", True, "skipped"),
    ("warn", "inconclusive", True, "skipped"),
    ("warn", "no data", True, "skipped"),
]


@pytest.mark.parametrize(("level", "verdict", "strict", "outcome"), CASES)
def test_junit_case(level, verdict, strict, outcome, tmp_path):
    write_junit(GateResult("pass", checks=(check(level=level, verdict=verdict),)), tmp_path / "out.xml", strict)
    suite = ElementTree.parse(tmp_path / "out.xml").getroot()
    (case,) = suite.findall("testcase")
    assert case.get("name") == "iof/object"
    assert [child.tag for child in case] == ([outcome] if outcome else [])
    counts = {"failure": "failures", "error": "errors", "skipped": "skipped"}
    assert {tag: suite.get(name) for tag, name in counts.items()} == {tag: str(int(tag == outcome)) for tag in counts}


def test_junit_of_records_that_are_not_comparable_is_an_error(tmp_path):
    write_junit(GateResult("not comparable", reasons=(f"because {EVIL}",)), tmp_path / "out.xml")
    suite = ElementTree.parse(tmp_path / "out.xml").getroot()
    assert suite.get("errors") == "1"
    assert "because [red]<script>" in suite.find("testcase/error").text


def test_few_images_are_warned_of_in_every_output(tmp_path):
    record = make_record(15, 3)
    result = compare(record, record)
    write_junit(result, tmp_path / "out.xml")
    told = "The audit set has only 15 images"
    assert told in ElementTree.parse(tmp_path / "out.xml").getroot().findtext("system-out")
    assert told in result_as_json(result)["warnings"][0]
    assert told in result_as_markdown(result)
    assert told in printed(result)


def test_junit_takes_any_name(evil, tmp_path):
    write_junit(evil, tmp_path / "out.xml")
    assert any("<script>" in case.get("name") for case in ElementTree.parse(tmp_path / "out.xml").iter("testcase"))


# Markdown -----------------------------------------------------------------------------------------------------------


def test_summary_is_appended_and_complete(regression, tmp_path):
    path = tmp_path / "summary.md"
    path.write_text("before\n")
    append_summary(regression, path)
    text = path.read_text()
    assert text.startswith("before\n## odsg gate\n\n**REGRESSION: iof/object.**")
    assert "| iof/object | error | ❌ FAIL |" in text
    assert "### Newly missed (6)" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {8, 7}


def test_names_cannot_break_the_summary(evil):
    text = result_as_markdown(evil)
    assert "<script" not in text
    assert "](" not in text
    assert not set(text) & set("\x1b\x07\u202e\ud800`")
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {8, 7}


def test_summary_of_refused_records_has_the_reason():
    text = result_as_markdown(GateResult("not comparable", reasons=("it is <b>broken</b>",)))
    assert "NOT COMPARABLE" in text
    assert "it is &#60;b&#62;broken" in text


# Strips -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_maps(tmp_path):
    record = make_record(20, 3, missed=0)
    candidate = with_rows(dropped(record, 0.2), lambda row: as_missed(row) if row.annotation_id == 4 else row)
    paths = tmp_path / "baseline.json", tmp_path / "candidate.json"
    write_with_maps(as_baseline(record), paths[0], colour=(200, 30, 30))
    write_with_maps(candidate, paths[1], colour=(30, 30, 200))
    return compare(record, candidate), *paths


def test_strips_show_the_baseline_above_the_candidate(with_maps, tmp_path):
    result = with_strips(*with_maps, tmp_path / "new" / "strips")
    assert set(result.strips) == {one.key for one in (*result.worst, *result.newly_missed)}
    with Image.open(result.strips[result.worst[0].key]) as picture:
        pixels = np.asarray(picture).astype(int)
    rows_of = [np.flatnonzero((np.abs(pixels[:, 50] - c) < 12).all(1)) for c in ((200, 30, 30), (30, 30, 200))]
    assert [len(rows) for rows in rows_of] == [28, 28]
    assert rows_of[0].max() < rows_of[1].min()
    assert str(result.strips[result.worst[0].key]) in printed(result)
    with Image.open(result.strips[result.newly_missed[0].key]) as picture:
        missed = np.asarray(picture).astype(int)
    assert (np.abs(missed - (200, 30, 30)) < 12).all(2).any()
    assert not (np.abs(missed - (30, 30, 200)) < 12).all(2).any()
    assert sorted(path.suffix for path in (tmp_path / "new" / "strips").iterdir()) == [".png"] * len(result.strips)


def test_without_maps_there_is_a_warning(with_maps, tmp_path):
    result, baseline, candidate = with_maps
    candidate.with_suffix(".maps.npz").unlink()
    found = with_strips(result, baseline, candidate, tmp_path / "strips")
    assert not found.strips
    assert f"no maps beside {candidate}" in found.warnings[-1]
    assert not (tmp_path / "strips").exists()
    assert found.verdict == result.verdict


def test_maps_that_were_changed_are_refused(with_maps, tmp_path):
    with_maps[2].with_suffix(".maps.npz").write_bytes(b"x")
    with pytest.raises(BrokenInputError, match="its content is another"):
        with_strips(*with_maps, tmp_path / "strips")


def test_a_file_in_the_place_of_the_folder_is_refused(with_maps, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserInputError, match="Expected to write into the folder"):
        with_strips(*with_maps, Path(tmp_path / "file"))
