"""The CI recipes of examples/ci: the very line that both run is run here, on a small trained detector."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
import yaml
from helpers.runs import module_like

from odsg_lightning.cli import main
from odsg_lightning.demo.shapes import make_shapes

ROOT = Path(__file__).resolve().parents[1]
GITHUB = yaml.safe_load((ROOT / "examples/ci/github/odsg-gate.yml").read_text())
GITLAB = yaml.safe_load((ROOT / "examples/ci/gitlab/odsg-gate.yml").read_text())
STEPS = GITHUB["jobs"]["gate"]["steps"]
JOB = GITLAB["odsg-gate"]
(LINE,) = JOB["script"]

QUICK = ["--config", "retinanet_tiny", "--n-samples", "2", "--score-threshold", "0.3"]


def step(word: str) -> dict:
    (found,) = [one for one in STEPS if word in str(one.get("uses", "")) + str(one.get("run", ""))]
    return found


# What the files say -------------------------------------------------------------------------------------------------


def test_both_run_the_same_line_on_the_same_files():
    assert step("audit_and_gate.sh")["run"] == LINE
    for name in ("CHECKPOINT", "AUDIT_SET", "BASELINE", "ODSG_REF"):
        assert GITHUB["env"][name] == JOB["variables"][name]
    assert step("audit_and_gate.sh")["env"]["RESULTS"] == JOB["variables"]["RESULTS"]


def test_a_pull_request_gets_no_more_rights_than_to_read():
    assert list(GITHUB[True]) == ["pull_request"]  # YAML 1.1 reads `on` as true; pull_request_target would have secrets
    assert GITHUB["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in GITHUB["jobs"].values())
    checkouts = [one["with"] for one in STEPS if "checkout" in one.get("uses", "")]
    assert [options["persist-credentials"] for options in checkouts] == [False, False]
    assert not any("${{" in one.get("run", "") for one in STEPS)  # a title pasted into a shell line would be run
    assert "secrets" not in json.dumps(GITHUB)


def test_actions_are_pinned_by_major_version():
    used = [one["uses"] for one in STEPS if "uses" in one]
    assert len(used) == 4
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", name) for name in used)


def test_results_are_kept_whatever_the_verdict():
    upload, results = step("upload-artifact"), JOB["variables"]["RESULTS"]
    assert upload["if"] == "always()"
    assert upload["with"]["path"] == results
    assert JOB["artifacts"]["when"] == "always"
    assert JOB["artifacts"]["paths"] == [results]
    assert JOB["artifacts"]["reports"]["junit"] == f"{results}/junit.xml"


def test_what_the_gate_cannot_decide_is_refused():
    script = (ROOT / "examples/ci/audit_and_gate.sh").read_text()
    (command,) = re.findall(r"^odsg gate .*(?:\\\n.*)*", script, re.MULTILINE)
    assert "--strict" in command.split()


def test_the_record_that_is_judged_is_that_of_the_checkpoint():
    script = (ROOT / "examples/ci/audit_and_gate.sh").read_text()
    assert re.search(r'^odsg gate .* --checkpoint "\$CHECKPOINT" ', script, re.MULTILINE)


@pytest.mark.parametrize(
    ("service", "pipeline"), [("github", ["/.github/"]), ("gitlab", ["/.gitlab-ci.yml", "/odsg-gate.yml"])]
)
def test_what_could_take_the_gate_away_or_decide_what_passes_has_an_owner(service, pipeline):
    text = (ROOT / f"examples/ci/{service}/CODEOWNERS").read_text()
    rules = dict(line.split() for line in text.splitlines() if line and not line.startswith("#"))
    decides = {f"/{Path(path).parts[0]}/" for path in (JOB["variables"]["AUDIT_SET"], JOB["variables"]["BASELINE"])}
    assert set(rules) >= {*pipeline, *decides}
    assert all(owner.startswith("@") for owner in rules.values())
    assert "CODEOWNERS" in (ROOT / f"examples/ci/{service}/odsg-gate.yml").read_text()


# What the line does -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Repository:
    """A checked-out repository as the recipes expect one, and the detectors that pull requests bring."""

    folder: Path
    variables: dict[str, str]

    def gate(self, results: str, **changes: str) -> subprocess.CompletedProcess:
        """Run the recipes' line as a CI machine does."""
        changes = {"RESULTS": results, "GITHUB_STEP_SUMMARY": f"{results}.md", "CI": "true", **changes}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return subprocess.run(
            ["bash", "-c", f"{LINE} {' '.join(QUICK)}"],
            cwd=self.folder,
            env={**os.environ, **self.variables, **changes, "PATH": path},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )


@pytest.fixture(scope="module")
def repository(trained_retinanet, shapes_folder, tmp_path_factory) -> Repository:
    folder = tmp_path_factory.mktemp("repository")
    (folder / ".odsg").symlink_to(ROOT)
    variables = {name: JOB["variables"][name] for name in ("CHECKPOINT", "AUDIT_SET", "BASELINE")}
    checkpoint, audit_set, baseline = (folder / path for path in variables.values())
    checkpoint = checkpoint.with_suffix(".pth")
    for path in (checkpoint, audit_set):
        path.parent.mkdir()
    module = module_like(trained_retinanet.model)
    module.export_weights(checkpoint)
    with torch.no_grad():
        module.detector.head.cls_score.bias.fill_(-20)
    module.export_weights(checkpoint.with_stem("blind"))
    shapes = make_shapes(shapes_folder, n_train=240, n_val=24, seed=3)
    data = ["--annotations", shapes.val_annotations, "--images", shapes.val_images, "--min-size", "128"]
    accepted = folder / "accepted.json"
    for command in (
        ["audit-set", *data, "-o", audit_set],
        ["audit", checkpoint, "--audit-set", audit_set, "-o", accepted, "--device", "cpu", *QUICK],
        ["baseline", "accept", accepted, "-o", baseline, "--reason", "the first one"],
    ):
        assert main([str(word) for word in command]) == 0
    return Repository(folder, {**variables, "CHECKPOINT": str(checkpoint.relative_to(folder))})


def verdicts(results: Path) -> tuple[int, int]:
    """Tests and failures that JUnit's reader sees."""
    suites = list(ElementTree.parse(results / "junit.xml").getroot().iter("testsuite"))
    return sum(int(suite.get("tests")) for suite in suites), sum(int(suite.get("failures")) for suite in suites)


@pytest.mark.slow
def test_the_same_detector_passes(repository):
    done = repository.gate("same")
    assert done.returncode == 0, done.stderr
    results = repository.folder / "same"
    assert {"candidate.json", "candidate.maps.npz", "gate.json", "junit.xml", "report.html"} <= {
        path.name for path in results.iterdir()
    }
    tests, failures = verdicts(results)
    assert tests > 0
    assert failures == 0
    assert json.loads((results / "gate.json").read_text())["verdict"] == "pass"
    assert "pass" in (repository.folder / "same.md").read_text()


@pytest.mark.slow
def test_a_detector_that_finds_nothing_is_refused_and_the_report_is_written_all_the_same(repository):
    done = repository.gate("blind", CHECKPOINT="models/blind.pth")
    assert done.returncode == 3, done.stderr  # nothing of it can be compared
    results = repository.folder / "blind"
    assert "the candidate detects none of the" in done.stderr
    assert json.loads((results / "gate.json").read_text())["verdict"] == "not comparable"
    assert (results / "report.html").stat().st_size > 10_000
    assert any(path.suffix == ".png" for path in (results / "strips").iterdir())
    assert "recall" in (repository.folder / "blind.md").read_text()


@pytest.mark.slow
def test_a_truncated_baseline_is_broken_input(repository):
    whole = (repository.folder / repository.variables["BASELINE"]).read_bytes()
    (repository.folder / "broken.json").write_bytes(whole[: len(whole) // 2])
    done = repository.gate("broken", BASELINE="broken.json")
    assert done.returncode == 3, done.stderr
    assert "broken.json" in done.stdout + done.stderr
    assert verdicts(repository.folder / "broken")[1] + verdicts(repository.folder / "broken")[0] > 0


@pytest.mark.slow
def test_a_checkpoint_that_is_none_is_broken_input_and_nothing_is_gated(repository):
    (repository.folder / "page.pth").write_text("<html>Not found</html>")
    done = repository.gate("none", CHECKPOINT="page.pth")
    assert done.returncode == 3, done.stderr
    assert "page.pth" in done.stderr
    assert list((repository.folder / "none").iterdir()) == []


def test_without_a_checkpoint_the_script_says_what_is_missing(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "CHECKPOINT"}
    script = str(ROOT / "examples/ci/audit_and_gate.sh")
    done = subprocess.run(["bash", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Expected CHECKPOINT to name the checkpoint" in done.stderr
    assert list(tmp_path.iterdir()) == []
