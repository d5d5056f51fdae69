"""The page's verdict is the gate's."""

import json
import re
from dataclasses import replace

import pytest
from helpers.records import as_baseline, as_undefined, dropped, make_record, with_rows

from odsg_lightning.cli import main
from odsg_lightning.gate import GateConfig, Margin, Rule, compare_files
from odsg_lightning.gate.result import Overall
from odsg_lightning.names import IOF_NAMES
from odsg_lightning.records.record import write_record
from odsg_lightning.report.audits import read_audits
from odsg_lightning.report.page import build_page
from odsg_lightning.report.verdict import can_be_judged, verdict_on

OCCLUSION = ("sufficiency", "necessity")
BASE = make_record(24, 2, seed=3, missed=0.0)


def written(tmp_path, candidate, baseline=None):
    paths = [tmp_path / "baseline.json", tmp_path / "candidate.json"]
    write_record(baseline or as_baseline(BASE), paths[0])
    write_record(candidate, paths[1])
    return paths


def text_of(html):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", html))


def of_gate(html):
    """The text of the section of the gate."""
    return text_of(re.search(r'<section id="gate".*?</section>', html, flags=re.DOTALL)[0])


CASES: dict[Overall, object] = {
    "pass": BASE,
    "regression": dropped(BASE, 0.3, (*IOF_NAMES, *OCCLUSION)),
    "not comparable": replace(BASE, fingerprint={**BASE.fingerprint, "sigma": 0.2}),
}


@pytest.mark.parametrize("expected", CASES)
def test_the_page_says_what_the_gate_says(tmp_path, expected):
    paths = written(tmp_path, CASES[expected])
    result = compare_files(*paths)
    assert result.verdict == expected
    verdict = verdict_on(read_audits(paths))
    assert verdict.result == result
    shown = of_gate(build_page(read_audits(paths)))
    assert verdict.word in shown
    assert all(reason in shown.replace("&#39;", "'") for reason in result.reasons)
    for check in result.checks:
        assert check.name in shown
    for deciding in verdict.deciding:
        assert deciding.check.sentence in shown


def test_the_verdict_comes_before_everything_else_that_was_measured(tmp_path):
    html = build_page(read_audits(written(tmp_path, CASES["regression"])))
    main_part = html[html.index("<main") :]
    assert main_part.index('id="gate"') < main_part.index("Regression") < main_part.index('id="summary"')


def test_the_checks_that_fail_decide_a_regression(tmp_path):
    lower = dropped(BASE, 0.3, ("sufficiency",))
    verdict = verdict_on(read_audits(written(tmp_path, lower)))
    assert [shown.check.name for shown in verdict.deciding] == ["occlusion/sufficiency"]
    (shown,) = verdict.deciding
    assert shown.change.judgement == "worse"
    assert 0 <= shown.bar.lower <= shown.bar.point <= shown.bar.upper < shown.bar.threshold < shown.bar.zero <= 100


def test_of_a_share_that_should_be_low_a_rise_is_worse(tmp_path):
    gone = dropped(BASE, 0.9, IOF_NAMES)
    verdict = verdict_on(read_audits(written(tmp_path, gone)))
    (shown,) = [one for one in (*verdict.errors, *verdict.warnings) if not one.check.higher_is_better]
    assert (shown.change.arrow, shown.change.judgement) == ("▲", "worse")
    assert not shown.limit.startswith("+")


def test_maps_that_were_lost_are_no_pass(tmp_path):
    keys = {row.key for row in BASE.objects[::2]}
    lost = with_rows(BASE, lambda row: as_undefined(row) if row.key in keys else row)
    assert "Passed" not in of_gate(build_page(read_audits(written(tmp_path, lost))))


def test_an_edited_baseline_is_refused_as_by_the_gate(tmp_path):
    paths = written(tmp_path, BASE)
    content = json.loads(paths[0].read_text())
    content["objects"][0]["iou"] = 0.9
    paths[0].write_text(json.dumps(content))
    shown = of_gate(build_page(read_audits(paths)))
    assert "Not comparable, so not passed" in shown
    assert "changed since it was accepted" in shown


def test_the_gates_configuration_is_used(tmp_path):
    paths = written(tmp_path, dropped(BASE, 0.3, ("sufficiency",)))
    config = GateConfig(checks={"occlusion/sufficiency": Rule(Margin(0.4))})
    assert verdict_on(read_audits(paths), config).word == "Passed"
    assert "Passed" in of_gate(build_page(read_audits(paths), gate_config=config))


def test_audits_of_different_seeds_are_compared_only_if_told_so(tmp_path):
    paths = written(tmp_path, make_record(24, 2, seed=3, missed=0.0, audit_seed=1))
    assert verdict_on(read_audits(paths)).word == "Not comparable, so not passed"
    assert verdict_on(read_audits(paths), ignore_seed=True).word == "Passed"


def test_several_accepted_trainings_are_said(tmp_path):
    both = replace(BASE, further=(dropped(BASE, 0.02),))
    shown = of_gate(build_page(read_audits(written(tmp_path, BASE, as_baseline(both)))))
    assert "the mean of 2 accepted trainings" in shown


def test_without_an_accepted_baseline_there_is_no_verdict(tmp_path):
    paths = written(tmp_path, BASE)
    audits = read_audits(paths)
    assert not any(can_be_judged(some) for some in (audits[:1], audits[1:], audits[::-1], audits[1:] * 2))
    html = build_page(audits[::-1])
    assert 'id="gate"' not in html
    assert "Without a verdict of the gate" in html


def test_the_command_takes_the_gates_configuration(tmp_path):
    paths = [str(path) for path in written(tmp_path, dropped(BASE, 0.3, ("sufficiency",)))]
    config, page = tmp_path / "gate.yaml", tmp_path / "page.html"
    config.write_text("checks: {occlusion/sufficiency: {margin: 0.4}}")
    assert main(["report", *paths, "-o", str(page)]) == 0
    assert "Regression" in of_gate(page.read_text())
    assert main(["report", *paths, "-o", str(page), "--config", str(config)]) == 0
    assert "Passed" in of_gate(page.read_text())
    assert main(["gate", *paths, "--config", str(config)]) == 0


@pytest.mark.parametrize("option", [["--config", "gate.yaml"], ["--ignore-seed"]])
def test_the_gates_options_without_a_baseline_are_refused(tmp_path, capsys, option, monkeypatch):
    paths = [str(path) for path in written(tmp_path, BASE)][::-1]
    (tmp_path / "gate.yaml").write_text("")
    monkeypatch.chdir(tmp_path)
    assert main(["report", *paths, "-o", "page.html", *option]) == 2
    assert "Expected an accepted baseline first and a candidate last" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()
