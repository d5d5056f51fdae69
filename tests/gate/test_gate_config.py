import subprocess
import sys
from dataclasses import replace
from fnmatch import fnmatchcase

import pytest
import yaml

from odsg_lightning.config_files import config_path
from odsg_lightning.errors import UserInputError
from odsg_lightning.gate import CategoryRule, GateConfig, Margin, Rule, read_gate_config
from odsg_lightning.gate.config import CHECKS, DEFAULT_FLOORS
from odsg_lightning.gate.config_file import gate_config_text


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "gate.yaml"
        path.write_text(text)
        return read_gate_config(path)

    return read


def test_the_default_file_says_what_the_defaults_are():
    path = config_path("gate/default")
    assert read_gate_config(path) == GateConfig()
    content = yaml.safe_load(path.read_text())
    # Complete: every value of every check, so that a default that changes in one place only breaks this test.
    assert set(content) == {"confidence", "resamples", "seed", "checks", "categories", "no_baseline"}
    assert content["no_baseline"] == dict(GateConfig().no_baseline)
    assert set(content["categories"]) == {"margin", "min_objects", "level"}
    assert all(set(rule) == {"margin", "floor", "level"} for rule in content["checks"].values())
    assert all(any(fnmatchcase(name, pattern) for pattern in content["checks"]) for name in CHECKS)


def test_what_a_file_leaves_out_keeps_its_default(read):
    assert read("") == GateConfig()
    config = read("confidence: 0.9\nchecks: {recall: {margin: 0.02}}\ncategories: {min_objects: 5}")
    assert config.confidence == 0.9
    assert config.checks["recall"] == Rule(Margin(0.02), level="warn")
    assert config.checks["iof/x_min/edge"] == GateConfig().checks["iof/x_min/edge"]
    assert config.categories == CategoryRule(min_objects=5)


def test_the_last_pattern_that_matches_wins_value_by_value(read):
    config = read("checks:\n  iof/*: {margin: 0.3, level: error}\n  iof/x_*/edge: {margin: '7%'}\n")
    assert config.checks["iof/x_min/edge"] == Rule(Margin(0.07, relative=True), level="error")
    assert config.checks["iof/y_min/edge"] == Rule(Margin(0.3), level="error")
    assert config.checks["recall"] == GateConfig().checks["recall"]
    swapped = read("checks:\n  iof/x_*/edge: {margin: '7%'}\n  iof/*: {margin: 0.3}\n")
    assert swapped.checks["iof/x_min/edge"].margin == Margin(0.3)


@pytest.mark.parametrize("level", ["off", "'off'", "false"])
def test_off_is_off_though_yaml_reads_it_as_false(read, level):
    assert read(f"checks: {{match_rate: {{level: {level}}}}}").checks["match_rate"].level == "off"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cheks: {}", "got the key 'cheks' .did you mean 'checks'"),
        ("checks: {recal: {margin: 0.1}}", "got 'recal' .did you mean 'recall'"),
        ("checks: {coverage: {margin: 0.1}}", "a check or a pattern .* got 'coverage' .which is called 'recall' now"),
        ("coverage: {margin: 0.1}", "got the key 'coverage'[.]$"),  # not even its new name belongs there
        ("checks: {iof/x_min/edgy: {}}", "did you mean 'iof/x_min/edge'"),
        ("checks: {1: {}}", "got 1"),
        ("checks: {recall: {margn: 0.1}}", "`checks: recall` to hold only .* .did you mean 'margin'"),
        ("checks: {recall: 0.1}", "`checks: recall` to be a mapping, but got 0.1"),
        ("checks: {recall: {margin: -0.1}}", "number from 0 to 1"),
        ("checks: {recall: {margin: 5}}", "number from 0 to 1"),
        ("checks: {recall: {margin: .nan}}", "number from 0 to 1"),
        ("checks: {recall: {margin: .inf}}", "number from 0 to 1"),
        (f"checks: {{recall: {{margin: {'9' * 400}}}}}", "number from 0 to 1"),
        (f"checks: {{recall: {{floor: {'9' * 400}}}}}", "floor from 0 to 1"),
        (f"seed: {'9' * 5000}", "gate.yaml, but"),
        ("checks: {recall: {margin: true}}", "number from 0 to 1"),
        ("checks: {recall: {margin: null}}", "number from 0 to 1"),
        ("checks: {recall: {margin: '5'}}", "number from 0 to 1"),
        ("checks: {recall: {margin: '-5%'}}", "number from 0 to 1"),
        ("checks: {recall: {margin: 'nan%'}}", "number from 0 to 1"),
        ("checks: {recall: {margin: [1]}}", "single value, but got a list"),
        ("checks: {recall: {floor: 2}}", "floor from 0 to 1"),
        ("checks: {recall: {floor: '0.1'}}", "floor from 0 to 1"),
        ("checks: {recall: {level: fatal}}", "one of error, warn, off, but got 'fatal'"),
        ("checks: {collapsed: {floor: 0.5}}", "no floor of `collapsed`"),
        ("checks: {collapsed: {margin: '10%'}}", "margin of `collapsed` to be a number, the share of images.*got 10%"),
        ("no_baseline: {recal: 0.5}", "did you mean 'recall'"),
        ("no_baseline: {recall: 2}", "floor from 0 to 1"),
        ("no_baseline: {recall: [1]}", "`recall` of `no_baseline` to be a single value"),
        ("no_baseline: {collapsed: 0.5}", "no floor of `collapsed`"),
        ("no_baseline: 0.5", "`no_baseline` to be a mapping"),
        ("categories: {floor: 0.1}", "got the key 'floor'"),
        ("categories: {min_objects: 0}", "`min_objects` to be an integer of at least 1"),
        ("categories: []", "`categories` to be a mapping"),
        ("confidence: 1", "`confidence` to be from 0.5 to below 1"),
        ("confidence: 0.9999", "at least 19999 `resamples`"),
        ("resamples: 10", "`resamples` to be an integer from 99 to 99999"),
        ("resamples: 1000000", "`resamples` to be an integer from 99 to 99999"),
        ("resamples: true", "`resamples` to be an integer"),
        ("seed: -1", "`seed` to be an integer of at least 0"),
        ("seed: [1]", "`seed` to be a single value"),
        ("checks: {'*': {level: off}}\ncategories: {level: off}", "but all are off"),
        ("- 1", "the file to be a mapping, but got a list"),
        ("a: [", "gate.yaml, but while parsing"),
        ("seed: 1\nseed: 2", "the key 'seed' comes twice in line 2"),
        ("checks: {recall: {margin: 1}, recall: {margin: 0}}", "the key 'recall' comes twice"),
        ("seed: !!python/object/apply:os.getpid []", "could not determine a constructor"),
        ("[" * 2000, "gate.yaml, but"),
        ("a" * 1_100_000, "at most 0.125 MiB"),
        ("? [1, 2]\n: 3", "gate.yaml"),
    ],
)
def test_what_the_gate_does_not_know_is_refused(read, text, message):
    with pytest.raises(UserInputError, match=message):
        read(text)


def test_a_few_bytes_that_stand_for_a_giant_list_are_refused_shortly(read):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    for text in ("\n".join(lines), "\n".join([*lines, "seed: *a29"]), "\n".join([*lines, "? *a29\n: 1"])):
        with pytest.raises(UserInputError, match=r".") as caught:
            read(text)
        assert len(str(caught.value)) < 500


def test_no_file_is_refused(tmp_path):
    with pytest.raises(UserInputError, match="Expected a configuration of the gate at") as caught:
        read_gate_config(tmp_path / "none.yaml")
    assert type(caught.value) is UserInputError  # a mistake of usage, not a broken record
    with pytest.raises(UserInputError, match="folder"):
        read_gate_config(tmp_path)


def test_what_is_written_is_read(read):
    checks = {name: Rule(Margin(0.005 * i), level="warn") for i, name in enumerate(CHECKS)}
    checks |= {"recall": Rule(Margin(0.123, relative=True), floor=0.5), "match_rate": Rule(level="off")}
    config = GateConfig(0.9, 1999, 3, checks, CategoryRule(Margin(0.25, True), 7, "error"), {"recall": 0.3})
    text = gate_config_text(config, "two\nlines")
    assert text.startswith("# two\n# lines\n")
    assert read(text) == config
    assert replace(config, seed=4) != config


def test_floors_without_a_baseline_are_those_of_the_rules_first(read):
    assert read("").floors == dict(DEFAULT_FLOORS)
    text = "checks:\n  iof/near: {floor: 0.7}\n  defined: {level: off}\n  recall: {floor: 0.4}\n"
    assert read(text).floors == {
        **{"occlusion/sufficiency": 0.5, "occlusion/necessity": 0.5, "iof/near": 0.7, "recall": 0.4}
    }
    assert read("no_baseline: {'occlusion/*': null, iof/near: 0.9, defined: null}").floors == {"iof/near": 0.9}


HEAVY = "{'torch', 'lightning', 'scipy', 'matplotlib'}"


@pytest.mark.parametrize(("extra", "loaded"), [("", "[]"), ("import scipy; ", "['scipy']")])
def test_the_gate_loads_no_torch(extra, loaded):
    code = f"{extra}import sys, odsg_lightning.gate; print(sorted({HEAVY} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert found.stdout.strip() == loaded
