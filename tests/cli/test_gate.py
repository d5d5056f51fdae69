"""``odsg gate``, ``odsg baseline accept`` and ``odsg calibrate``, as they are typed."""

import errno
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from helpers.records import as_baseline, as_missed, bomb_npz, dropped, make_record, shifted, with_rows, write_with_maps

from odsg_lightning.cli import main
from odsg_lightning.files import MAX_JSON_BYTES, sha256_of
from odsg_lightning.gate import read_gate_config
from odsg_lightning.names import IOF_NAMES, OCCLUSION_NAMES
from odsg_lightning.records.record import read_record, write_record


@pytest.fixture
def folder(tmp_path):
    """An accepted baseline, and two candidates."""
    record = make_record(20, 3, missed=0, seed_sd=0.02)
    write_record(as_baseline(record), tmp_path / "baseline.json")
    write_record(record, tmp_path / "same.json")
    write_record(dropped(record, 0.2, [*IOF_NAMES, "sufficiency"]), tmp_path / "worse.json")
    return tmp_path


def gate(folder, candidate, *options, baseline="baseline.json"):
    return main(["gate", str(folder / baseline), str(folder / candidate), *map(str, options)])


# Exit codes ---------------------------------------------------------------------------------------------------------


def test_pass_regression_and_inconclusive(folder, capsys):
    assert gate(folder, "same.json") == 0
    assert "PASS: 60 objects in 20 images." in capsys.readouterr().out
    assert gate(folder, "worse.json") == 1
    assert "REGRESSION: occlusion/sufficiency." in capsys.readouterr().out
    record = read_record(folder / "same.json")
    some = with_rows(record, lambda row: shifted(row, 0.4, ["sufficiency"]) if row.image_id <= 4 else row)
    write_record(some, folder / "some.json")
    assert gate(folder, "some.json") == 0
    assert "INCONCLUSIVE: occlusion/sufficiency, which passes without --strict" in capsys.readouterr().out
    assert gate(folder, "some.json", "--strict") == 1
    assert "which --strict refuses" in capsys.readouterr().out


def test_the_configuration_is_used(folder):
    config = folder / "gate.yaml"
    config.write_text("checks: {occlusion/*: {margin: 0.5}}")
    assert gate(folder, "worse.json", "--config", config) == 0
    config.write_text("checks: {iof/object: {floor: 0.9}}")
    assert gate(folder, "same.json", "--config", config) == 0  # it only warns
    config.write_text("checks: {iof/object: {floor: 0.9, level: error}}")
    assert gate(folder, "same.json", "--config", config) == 1


def test_a_wrong_configuration_is_wrong_usage_and_nothing_is_written(folder, capsys):
    config = folder / "gate.yaml"
    config.write_text("chekcs: {}")
    assert gate(folder, "same.json", "--config", config, "--json", folder / "out.json") == 2
    assert "did you mean 'checks'" in capsys.readouterr().err
    assert gate(folder, "same.json", "--config", folder / "none.yaml") == 2
    assert not (folder / "out.json").exists()


@pytest.mark.parametrize("option", ["--json", "--junit"])
@pytest.mark.parametrize("name", ["baseline.json", "worse.json", "sub/../baseline.json"])
def test_an_output_never_replaces_an_input(folder, option, name):
    (folder / "sub").mkdir()
    before = {path.name: path.read_bytes() for path in folder.glob("*.json")}
    assert gate(folder, "worse.json", option, folder / name) == 2
    assert {path.name: path.read_bytes() for path in folder.glob("*.json")} == before


def test_the_old_name_of_recall_is_told(folder, capsys):
    config = folder / "gate.yaml"
    config.write_text("checks: {coverage: {margin: 0.02}}")
    assert gate(folder, "same.json", "--config", config) == 2
    assert "'coverage' (which is called 'recall' now)" in capsys.readouterr().err
    config.write_text("checks: {recall: {margin: 0.02}}")
    assert gate(folder, "same.json", "--config", config) == 0


def test_outputs_do_not_replace_one_another(folder):
    assert gate(folder, "same.json", "--json", folder / "out", "--junit", folder / "out") == 2


# Outputs ------------------------------------------------------------------------------------------------------------


def test_every_output_is_written(folder, capsys, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary.md"))
    code = gate(folder, "worse.json", "--json", folder / "out.json", "--junit", folder / "out.xml", "--strict")
    assert code == 1
    content = json.loads((folder / "out.json").read_text())
    assert (content["verdict"], content["exit_code"], content["strict"]) == ("regression", 1, True)
    assert content["baseline"]["file"] == str(folder / "baseline.json")
    assert content["candidate"]["checkpoint_sha256"] == "c" * 64
    suite = ElementTree.parse(folder / "out.xml").getroot()
    assert suite.find("testcase[@name='occlusion/sufficiency']/failure") is not None
    assert suite.find("testcase[@name='iof/object']/skipped") is not None
    assert suite.find("testcase[@name='collapsed']") is not None
    assert "REGRESSION" in (folder / "summary.md").read_text()
    assert "--strips FOLDER" in capsys.readouterr().out
    gate(folder, "same.json")
    assert (folder / "summary.md").read_text().count("## odsg gate") == 2


@pytest.mark.parametrize("option", ["--json", "--junit"])
def test_an_output_in_a_folder_that_is_not_there_is_wrong_usage(folder, capsys, option):
    assert gate(folder, "worse.json", option, folder / "none" / "out") == 2
    assert "No such file or directory" in capsys.readouterr().err


def test_a_summary_in_a_folder_that_is_not_there_is_wrong_usage(folder, capsys, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "none" / "summary.md"))
    assert gate(folder, "worse.json") == 2
    assert "Expected to append the summary to" in capsys.readouterr().err


def test_a_full_disk_is_no_regression_and_no_mistake_of_usage(folder, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert gate(folder, "same.json", "--json", folder / "out.json") == 74
    assert "out.json, but No space left on device" in capsys.readouterr().err
    assert accept(folder) == 74
    assert main(["report", str(folder / "same.json"), "-o", str(folder / "page.html")]) == 74
    assert sorted(path.name for path in folder.iterdir()) == ["baseline.json", "same.json", "worse.json"]


def test_pictures_are_written_and_named(tmp_path, capsys):
    record = make_record(20, 3, missed=0)
    write_with_maps(as_baseline(record), tmp_path / "baseline.json")
    write_with_maps(dropped(record, 0.2, [*IOF_NAMES, "sufficiency"]), tmp_path / "worse.json")
    code = gate(tmp_path, "worse.json", "--strips", tmp_path / "strips", "--json", tmp_path / "out.json")
    assert code == 1
    pictures = sorted((tmp_path / "strips").iterdir())
    assert len(pictures) == 5
    text = capsys.readouterr().out
    assert all(str(picture) in text for picture in pictures)
    assert json.loads((tmp_path / "out.json").read_text())["worst"][0]["strip"] in map(str, pictures)


# What cannot be compared --------------------------------------------------------------------------------------------


def test_swapped_arguments_are_refused(folder, capsys):
    assert gate(folder, "baseline.json", baseline="worse.json") == 3
    assert "are the arguments swapped?" in capsys.readouterr().err
    assert gate(folder, "baseline.json") == 3
    assert "are the arguments swapped?" in capsys.readouterr().err


def test_a_baseline_that_nobody_accepted_is_refused_with_the_command(folder, capsys):
    assert gate(folder, "worse.json", baseline="same.json") == 3
    assert f'odsg baseline accept {folder / "same.json"} -o baseline.json --reason "..."' in capsys.readouterr().err


def test_another_seed_needs_ignore_seed(folder, capsys):
    write_record(make_record(20, 3, missed=0, seed_sd=0.02, audit_seed=4), folder / "other.json")
    assert gate(folder, "other.json") == 3
    assert "differ in seed: 0 in the baseline, 4 in the candidate" in capsys.readouterr().err
    assert gate(folder, "other.json", "--ignore-seed") == 0


def edited(change):
    """A file made from the text of a good record."""

    def write(path: Path, good: str) -> None:
        content = json.loads(good)
        change(content)
        path.write_text(json.dumps(content))

    return write


def text(change):
    return lambda path, good: path.write_text(change(good))


def loop(path: Path, good: str) -> None:
    path.symlink_to(path)


def huge(path: Path, good: str) -> None:
    with path.open("wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)


BROKEN = {
    "absent": (lambda path, good: None, "No such file"),
    "empty": (text(lambda good: ""), "it is empty"),
    "truncated": (text(lambda good: good[: len(good) // 2]), "Is it truncated?"),
    "binary": (lambda path, good: path.write_bytes(b"\x80\x02\xff"), "codec can't decode"),
    "another schema": (edited(lambda c: c.update(schema="odsg-audit-record/9")), "not 'odsg-audit-record/4'"),
    "a list": (text(lambda good: "[]"), "Expected an audit record"),
    "NaN for null": (text(lambda good: good.replace("0.", "NaN, 0.", 1)), "NaN"),
    "NaN in IOF": (
        text(lambda good: good.replace('"score/object": 0', '"score/object": NaN, "x": 0', 1)),
        "it holds NaN",
    ),
    "above 1": (edited(lambda c: c["objects"][0]["iof"].update({"score/object": 1.5})), "maximum|smaller"),
    "duplicate": (edited(lambda c: c["objects"].append(c["objects"][0])), "comes twice"),
    "another audit set": (edited(lambda c: c["fingerprint"].update(audit_set="b" * 64)), "differ in audit_set"),
    "other objects": (edited(lambda c: c["objects"].pop()), "audited objects differ"),
    "zero objects": (edited(lambda c: c.update(objects=[])), "objects"),
    "huge": (huge, "at most 64 MiB"),
    "folder": (lambda path, good: path.mkdir(), "it is a folder"),
    "symlink loop": (loop, "symbolic link"),
    "pipe": (lambda path, good: os.mkfifo(path), "no regular file"),
    "maps elsewhere": (edited(lambda c: c.update(maps={"file": "../x.npz", "sha256": "a" * 64})), "maps"),
    "no field": (edited(lambda c: c["fingerprint"].pop("seed")), "seed"),
}


@pytest.mark.parametrize("side", ["baseline", "candidate"])
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_record_is_told_everywhere_and_never_passes(folder, capsys, monkeypatch, kind, side):
    write, reason = BROKEN[kind]
    good = (folder / ("baseline.json" if side == "baseline" else "same.json")).read_text()
    write(folder / "broken.json", good)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary.md"))
    names = {"baseline": "baseline.json", "candidate": "same.json"} | {side: "broken.json"}
    outputs = ["--json", folder / "out.json", "--junit", folder / "out.xml", "--strips", folder / "strips"]
    code = gate(folder, names["candidate"], *outputs, baseline=names["baseline"])
    captured = capsys.readouterr()
    assert code == 3
    assert re.search(reason, captured.err), captured.err
    assert "NOT COMPARABLE, so not passed." in captured.out
    content = json.loads((folder / "out.json").read_text())
    assert (content["verdict"], content["exit_code"]) == ("not comparable", 3)
    assert content["reasons"]
    assert ElementTree.parse(folder / "out.xml").getroot().get("errors") == "1"
    assert "NOT COMPARABLE" in (folder / "summary.md").read_text()
    assert not (folder / "strips").exists()


@pytest.mark.parametrize("kind", sorted(set(BROKEN) - {"another audit set", "other objects", "absent"}))
def test_a_broken_record_is_no_baseline(folder, capsys, kind):
    write, reason = BROKEN[kind]
    write(folder / "broken.json", (folder / "same.json").read_text())
    code = main(["baseline", "accept", str(folder / "broken.json"), "-o", str(folder / "new.json"), "--reason", "x"])
    assert code == 3
    assert re.search(reason, capsys.readouterr().err)
    assert not (folder / "new.json").exists()


@pytest.mark.parametrize("damage", ["link", "loop", "bomb", "text"])
def test_maps_that_cannot_be_used_never_read_as_a_pass(tmp_path, capsys, damage):
    (tmp_path / "ci").mkdir()
    record = make_record(20, 3, missed=0)
    write_with_maps(as_baseline(record), tmp_path / "ci" / "baseline.json")
    path = tmp_path / "ci" / "worse.json"
    candidate = write_with_maps(dropped(record, 0.01, OCCLUSION_NAMES), path)
    beside = path.with_suffix(".maps.npz")
    if damage == "link":
        beside.rename(tmp_path / "elsewhere.npz")
        beside.symlink_to(tmp_path / "elsewhere.npz")
    elif damage == "loop":
        beside.unlink()
        beside.symlink_to(beside)
    else:
        bomb_npz(beside) if damage == "bomb" else beside.write_text("no archive")
        write_record(replace(candidate, maps={"file": beside.name, "sha256": sha256_of(beside)}), path)
    code = gate(tmp_path / "ci", "worse.json", "--strips", tmp_path / "strips", "--json", tmp_path / "out.json")
    reasons = {"link": "leads to another folder", "loop": "loop", "bomb": "damaged", "text": "not a zip file"}
    assert code == 3
    assert reasons[damage] in capsys.readouterr().err
    assert json.loads((tmp_path / "out.json").read_text())["verdict"] == "not comparable"


def test_no_control_character_of_a_record_reaches_the_terminal(folder, capsys):
    evil = "\x1b]0;owned\x07\x1b[2J\u202e<script>|[red]"
    record = read_record(folder / "same.json")
    renamed = with_rows(record, lambda row: replace(row, category=evil, file_name=evil))
    fingerprint = {**record.fingerprint, evil: evil}
    write_record(as_baseline(renamed), folder / "evil_baseline.json")
    write_record(
        with_rows(dropped(renamed, 0.2, ["necessity"]), lambda r: as_missed(r) if r.annotation_id == 1 else r),
        folder / "evil.json",
    )
    write_record(replace(renamed, fingerprint=fingerprint), folder / "other.json")
    assert gate(folder, "evil.json", baseline="evil_baseline.json") == 1
    assert gate(folder, "other.json", baseline="evil_baseline.json") == 3
    maps = {"file": "\x1b[2J.npz", "sha256": "a" * 64}
    (folder / maps["file"]).touch()
    write_record(replace(record, maps=maps), folder / "maps.json")
    assert gate(folder, "maps.json", "--strips", folder / "strips") == 3
    captured = capsys.readouterr()
    assert "[2J.npz" in captured.err
    assert not set(captured.out + captured.err) & set("\x1b\x07\u202e")
    assert "<script>" in captured.out


# Baseline -----------------------------------------------------------------------------------------------------------


def accept(folder, *options, candidate="worse.json", output="new.json", reason="new data"):
    command = ["baseline", "accept", str(folder / candidate), "-o", str(folder / output), "--reason", reason]
    return main([*command, *options])


def test_accepting_prints_what_changed(folder, capsys):
    assert accept(folder, output="baseline.json") == 0
    text = capsys.readouterr().out
    assert "iof/near: 0.900 -> 0.700" in text
    assert "recall: 1.000 -> 1.000" in text
    assert [entry["reason"] for entry in read_record(folder / "baseline.json").accepted] == ["first model", "new data"]
    assert gate(folder, "worse.json") == 0
    assert accept(folder, candidate="same.json") == 0
    assert "iof/near: 0.900\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "code"),
    [*((yes, 2) for yes in ("true", "1", "yes")), *((no, 0) for no in ("", "false", "0", "no", "off"))],
)
def test_nothing_is_accepted_in_ci(folder, capsys, monkeypatch, value, code):
    monkeypatch.setenv("CI", value)
    assert accept(folder) == code
    assert (folder / "new.json").exists() == (code == 0)
    assert code == 0 or "accepted by a person" in capsys.readouterr().err


def test_accepting_refuses_what_the_library_refuses(folder, capsys):
    assert accept(folder, reason=" ") == 2
    assert accept(folder, output="same.json") == 2
    assert accept(folder, candidate="baseline.json") == 3
    write_record(make_record(20, 3, fingerprint={"sigma": 0.1}), folder / "other.json")
    assert accept(folder, candidate="other.json", output="baseline.json") == 3
    assert "differs in sigma" in capsys.readouterr().err
    assert accept(folder, "--reset", candidate="other.json", output="baseline.json") == 0


def test_maps_travel_unless_told_not_to(tmp_path):
    write_with_maps(make_record(), tmp_path / "candidate.json")
    assert accept(tmp_path, candidate="candidate.json", output="one.json") == 0
    assert (tmp_path / "one.maps.npz").exists()
    assert accept(tmp_path, "--without-maps", candidate="candidate.json", output="two.json") == 0
    assert not (tmp_path / "two.maps.npz").exists()


def three_trainings(folder):
    """Audits of three checkpoints, and one below the first that the lowest of them covers."""
    record = make_record(20, 3, iof=0.5, missed=0)
    for name, drop in (("a", 0.0), ("b", 0.06), ("c", 0.03), ("candidate", 0.08)):
        provenance = {**record.provenance, "checkpoint": f"{name}.ckpt", "checkpoint_sha256": name[0] * 64}
        provenance |= {"checkpoint_sha256": "d" * 64} if name == "candidate" else {}
        write_record(replace(dropped(record, drop, ["necessity"]), provenance=provenance), folder / f"{name}.json")


def test_several_trainings_are_accepted_together(tmp_path, capsys):
    three_trainings(tmp_path)
    paths = [str(tmp_path / f"{name}.json") for name in "abc"]
    assert main(["baseline", "accept", *paths, "-o", str(tmp_path / "baseline.json"), "--reason", "x"]) == 0
    assert f"Accepted {paths[0]} with 2 more trainings as" in capsys.readouterr().out
    assert gate(tmp_path, "candidate.json", "--strict") == 0
    assert "Compared with 3 accepted trainings: each margin begins at the lowest" in capsys.readouterr().out
    assert main(["baseline", "accept", paths[0], "-o", str(tmp_path / "one.json"), "--reason", "x"]) == 0
    assert gate(tmp_path, "candidate.json", baseline="one.json") == 1
    assert main(["report", str(tmp_path / "baseline.json"), paths[1], "-o", str(tmp_path / "page.html")]) == 0


@pytest.mark.parametrize("where", ["objects", "further"])
def test_a_baseline_that_was_edited_is_refused(tmp_path, capsys, where):
    three_trainings(tmp_path)
    paths = [str(tmp_path / f"{name}.json") for name in "abc"]
    assert main(["baseline", "accept", *paths, "-o", str(tmp_path / "baseline.json"), "--reason", "x"]) == 0
    content = json.loads((tmp_path / "baseline.json").read_text())
    rows = content["objects"] if where == "objects" else content["further"][1]["objects"]
    rows[0]["iof"]["x_min/near"] = 0.1
    (tmp_path / "baseline.json").write_text(json.dumps(content))
    assert gate(tmp_path, "candidate.json") == 3
    assert "baseline.json has been changed since it was accepted" in capsys.readouterr().err


# Without a baseline -------------------------------------------------------------------------------------------------


def test_without_a_baseline_floors_warn_and_nothing_fails(folder, capsys, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "summary.md"))
    bad = make_record(20, 3, missed=0, sufficiency=0.2)
    write_record(bad, folder / "bad.json")
    outputs = ["--json", folder / "out.json", "--junit", folder / "out.xml"]
    command = ["gate", "--no-baseline", folder / "bad.json", *outputs]
    assert main([str(word) for word in command]) == 0
    text = capsys.readouterr().out
    assert "Warning: occlusion/sufficiency lies below its floor: mean 0.20" in text
    assert text.splitlines()[-1] == "NO BASELINE, nothing compared: 3 of 4 floors reached."
    content = json.loads((folder / "out.json").read_text())
    assert (content["verdict"], content["exit_code"], content["n_accepted"]) == ("no baseline", 0, 0)
    assert content["candidate"]["file"] == str(folder / "bad.json")
    suite = ElementTree.parse(folder / "out.xml").getroot()
    assert (suite.get("failures"), suite.get("errors"), suite.get("skipped")) == ("0", "0", "1")
    assert "NO BASELINE" in (folder / "summary.md").read_text()
    behind = ["gate", str(folder / "bad.json"), "--no-baseline"]  # wherever the option stands
    assert main(behind) == 0
    config = folder / "gate.yaml"
    config.write_text("no_baseline: {'*': null, defined: 0.5}")
    assert main([*behind, "--config", str(config)]) == 0
    assert "1 of 1 floors reached" in capsys.readouterr().out


def test_without_a_baseline_a_broken_file_is_no_pass(folder, capsys):
    assert main(["gate", "--no-baseline", str(folder / "none.json")]) == 3
    assert "NOT COMPARABLE" in capsys.readouterr().out


@pytest.mark.parametrize("option", [["--strict"], ["--ignore-seed"], ["--strips", "x"], ["same.json"]])
def test_without_a_baseline_nothing_is_compared(folder, capsys, option):
    assert main(["gate", "--no-baseline", str(folder / "worse.json"), *option]) == 2
    assert "--no-baseline" in capsys.readouterr().err


def test_a_candidate_is_still_required_with_a_baseline(folder, capsys):
    assert main(["gate", str(folder / "baseline.json")]) == 2
    assert "required: candidate" in capsys.readouterr().err


# Calibrate ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def audits(tmp_path):
    paths = [tmp_path / f"seed_{seed}.json" for seed in range(3)]
    for seed, path in enumerate(paths):
        write_record(make_record(seed_sd=0.05, audit_seed=seed), path)
    return paths


def test_margins_are_printed_and_written(audits, tmp_path, capsys):
    output = tmp_path / "gate.yaml"
    assert main(["calibrate", *map(str, audits), "-o", str(output)]) == 0
    captured = capsys.readouterr()
    lines = {
        line.split()[0]: line.split()[1:] for line in captured.out.splitlines() if line.startswith(("iof", "recall"))
    }
    config = read_gate_config(output)
    assert float(lines["iof/object"][2]) == config.checks["iof/object"].margin.amount >= 0.01
    assert lines["recall"] == ["0.000", "0.000", "0.010"]
    assert "noise of the seeds alone" in captured.out
    assert not captured.err
    main(["baseline", "accept", str(audits[0]), "-o", str(tmp_path / "baseline.json"), "--reason", "x"])
    options = ["--config", output, "--ignore-seed", "--strict"]
    assert gate(tmp_path, "seed_1.json", *options) == 0


def test_margins_of_retrainings(audits, capsys):
    assert main(["calibrate", *map(str, audits), "--retrained"]) == 3  # these are of one checkpoint
    base = make_record()
    for run, path in enumerate(audits):
        write_record(replace(base, provenance={**base.provenance, "checkpoint_sha256": f"{run}" * 64}), path)
    assert main(["calibrate", *map(str, audits), "--retrained"]) == 0
    assert "cover the differences between these 3 trainings" in capsys.readouterr().out


def test_a_file_is_overwritten_only_with_force(audits, tmp_path):
    output = tmp_path / "gate.yaml"
    output.write_text("mine")
    assert main(["calibrate", *map(str, audits), "-o", str(output)]) == 2
    assert output.read_text() == "mine"
    assert main(["calibrate", *map(str, audits), "-o", str(output), "--force"]) == 0
    assert read_gate_config(output)


def test_two_records_are_few(audits, capsys):
    assert main(["calibrate", *map(str, audits[:2])]) == 0
    assert "two records say little" in capsys.readouterr().err
    assert main(["calibrate", str(audits[0])]) == 2
    assert main(["calibrate", str(audits[0]), str(audits[0])]) == 2
    write_record(make_record(audit_seed=1, fingerprint={"sigma": 0.1}), audits[1])
    assert main(["calibrate", *map(str, audits)]) == 3


# Size ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_ten_thousand_objects_take_little_memory(tmp_path):
    categories = [f"category {index}" for index in range(80)]
    world = {"n_images": 2500, "objects_per_image": 4, "categories": categories, "seed_sd": 0.03, "undefined": 0.05}
    write_record(as_baseline(make_record(**world)), tmp_path / "baseline.json")
    write_record(make_record(**world, audit_seed=1, fingerprint={"seed": 0}), tmp_path / "candidate.json")
    arguments = ["gate", str(tmp_path / "baseline.json"), str(tmp_path / "candidate.json")]
    # Not ru_maxrss, which a process takes over from the one that started it.
    peak = "next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM'))"
    code = f"import sys; from odsg_lightning.cli import main; main({arguments}); print({peak}, 'torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    kibibytes, has_torch = found.stdout.splitlines()[-1].split()
    assert "PASS: 10000 objects in 2500 images." in found.stdout
    assert int(kibibytes) < 500 * 1024
    assert has_torch == "False"
