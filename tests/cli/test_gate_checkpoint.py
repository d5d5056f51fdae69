"""``odsg gate --checkpoint``, and a gate in CI in which nothing decides."""

import hashlib
from dataclasses import replace

import pytest
from helpers.records import as_baseline, dropped, make_record

from odsg_lightning.cli import main
from odsg_lightning.records.record import write_record

CONTENT = b"weights"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A baseline, the record of model.ckpt, that of a training, which names no checkpoint, and a worse one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.ckpt").write_bytes(CONTENT)
    (tmp_path / "other.ckpt").write_bytes(b"other weights")
    record = make_record(20, 3, missed=0)
    write_record(as_baseline(record), tmp_path / "baseline.json")
    for name, sha256 in {"candidate": hashlib.sha256(CONTENT).hexdigest(), "training": None}.items():
        told = replace(record, provenance={**record.provenance, "checkpoint_sha256": sha256})
        write_record(told, tmp_path / f"{name}.json")
    write_record(dropped(record, 0.2), tmp_path / "worse.json")
    return tmp_path


COMPARED = [["gate", "baseline.json"], ["gate", "--no-baseline"]]


@pytest.mark.parametrize("command", COMPARED)
def test_the_record_of_the_checkpoint_is_compared(folder, command):
    assert main([*command, "candidate.json", "--checkpoint", "model.ckpt"]) == 0


@pytest.mark.parametrize("command", COMPARED)
@pytest.mark.parametrize(
    ("candidate", "checkpoint", "message"),
    [
        ("candidate.json", "other.ckpt", "candidate.json is the audit of another checkpoint than other.ckpt"),
        ("training.json", "model.ckpt", "training.json does not say of which checkpoint it is"),
        ("candidate.json", "none.ckpt", "Expected the candidate's checkpoint at none.ckpt, but No such file"),
        ("candidate.json", ".", "Expected the candidate's checkpoint at ., but it is a folder"),
    ],
)
def test_the_record_of_another_checkpoint_is_not_comparable(folder, capsys, command, candidate, checkpoint, message):
    assert main([*command, candidate, "--checkpoint", checkpoint, "--json", "out.json"]) == 3
    assert message in capsys.readouterr().err
    assert '"verdict": "not comparable"' in (folder / "out.json").read_text()


def test_the_checkpoint_is_not_written_over(folder):
    assert main(["gate", "baseline.json", "candidate.json", "--checkpoint", "model.ckpt", "--json", "model.ckpt"]) == 2
    assert (folder / "model.ckpt").read_bytes() == CONTENT


NOTHING_DECIDES = [
    'checks: {"*": {level: warn}}',
    'checks: {"*": {level: "off"}, recall: {level: warn}}',
    "checks: {'*': {level: warn}, iof/near: {level: error, margin: 1}}",
    "checks: {'*': {level: warn}, iof/near: {level: error, margin: '100%', floor: 0}}",
    "checks: {'*': {level: warn}}\ncategories: {level: error, margin: 1}",
]


@pytest.mark.parametrize("text", NOTHING_DECIDES)
def test_a_gate_in_which_nothing_decides_is_a_mistake_in_ci_and_a_warning_elsewhere(folder, capsys, monkeypatch, text):
    (folder / "gate.yaml").write_text(text)
    words = ["gate", "baseline.json", "worse.json", "--config", "gate.yaml"]
    assert main(words) == 0
    assert "nothing can fail this gate" in capsys.readouterr().out
    monkeypatch.setenv("CI", "true")
    assert main([*words, "--json", "out.json"]) == 2
    assert "Expected at least one check in gate.yaml that can fail" in capsys.readouterr().err
    assert not (folder / "out.json").exists()
    assert main(["gate", "--no-baseline", "worse.json", "--config", "gate.yaml"]) == 0  # which never decides


@pytest.mark.parametrize(
    "text",
    [
        "checks: {'*': {level: warn}, iof/near: {level: error}}",
        "checks: {'*': {level: warn}, iof/near: {level: error, margin: 1, floor: 0.9}}",
        "checks: {'*': {level: warn}}\ncategories: {level: error, min_objects: 1}",
    ],
)
def test_one_check_that_can_fail_is_enough(folder, monkeypatch, text):
    monkeypatch.setenv("CI", "true")
    (folder / "gate.yaml").write_text(text)
    assert main(["gate", "baseline.json", "worse.json", "--config", "gate.yaml"]) == 1
