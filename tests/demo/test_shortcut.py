import importlib.util
import json
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from helpers.records import as_missed, hidden_pixels, make_record

from odsg_lightning.cli import main
from odsg_lightning.demo import shortcut
from odsg_lightning.demo.shortcut_models import make_shortcut_data
from odsg_lightning.records.means import audit_means
from odsg_lightning.records.record import AuditRecord, read_record, write_record

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "shortcut.py"


@pytest.fixture
def few_images(request, monkeypatch):
    n_train = getattr(request, "param", 400)
    monkeypatch.setattr(shortcut, "make_shortcut_data", partial(make_shortcut_data, n_train=n_train, n_val=40))


def commands(printed: str) -> list[list[str]]:
    return [shlex.split(line)[2:] for line in printed.splitlines() if line.startswith("$ odsg ")]


def mean_share_on_the_object(record: AuditRecord) -> float:
    """Of the objects that were detected again: which those are hangs on the last bits of a training, and so on the CPU.

    An object that was detected again in none of the three noise samples has no maps; each of the others has.
    """
    detected = [row for row in record.objects if not row.missed]
    again = [row.object_iof for row in detected if row.matched_samples]
    assert len(again) >= 0.8 * len(detected) > 0
    return sum(again) / len(again)


@pytest.mark.slow
def test_the_gate_refuses_the_detector_that_reads_the_frames(few_images, tmp_path, capsys, monkeypatch):
    """A quarter of the real training: AP50 does not prefer it yet, but it needs the frames already, and no object."""
    monkeypatch.setenv("CI", "true")

    def odsg(words):
        quick = ["--score-threshold", "0.3", "--n-samples", "3"] if words[0] == "audit" else []
        return main([*words, *quick])

    shortcut.run_shortcut(odsg, tmp_path, steps=250)
    printed = capsys.readouterr().out
    assert "The gate refuses it (exit code 1)" in " ".join(printed.split())
    result = json.loads((tmp_path / "gate.json").read_text())
    assert result["verdict"] == "regression"
    baseline, candidate = read_record(tmp_path / "baseline.json"), read_record(tmp_path / "audits" / "shortcut.json")
    assert mean_share_on_the_object(candidate) < 0.6 * mean_share_on_the_object(baseline)
    clean, broken = (audit_means(record.objects) for record in (baseline, candidate))
    for name in ("occlusion/sufficiency", "occlusion/necessity"):
        assert broken[name] < clean[name] - 0.4, name  # of eight margins; whether it halves hangs on the CPU
    assert "How well, and for which reasons" in printed
    assert "With all but the object hidden, the shortcut detector finds" in " ".join(printed.split())
    assert (tmp_path / "report.html").is_file()
    assert 1 <= len(list((tmp_path / "strips").glob("*.png"))) <= 15

    # The one command that is shown and not run does what was done in its place.
    names = [words[0] for words in commands(printed)]
    assert names == ["audit-set", "audit", "baseline", "audit", "gate", "report"]
    accept = commands(printed)[2]
    monkeypatch.delenv("CI")
    (tmp_path / "baseline.json").unlink()
    assert main(accept) == 0
    assert read_record(tmp_path / "baseline.json") == baseline


@pytest.mark.slow
@pytest.mark.parametrize("few_images", [16], indirect=True)
def test_detectors_that_find_nothing_prove_nothing_and_another_run_writes_again(few_images, tmp_path, capsys):
    for _ in range(2):
        assert shortcut.run_shortcut(main, tmp_path, steps=1) == 1
        assert "The gate does not refuse it (exit code 3)" in " ".join(capsys.readouterr().out.split())
    assert len(read_record(tmp_path / "baseline.json").accepted) == 1


@pytest.mark.parametrize(
    ("clean", "broken", "verdict", "code"),
    [(0.98, 0.99, 1, 0), (0.98, 0.98, 1, 1), (0.98, 0.99, 0, 1), (0.98, 0.99, 3, 1)],
)
def test_the_demonstration_succeeds_only_if_both_happened(clean, broken, verdict, code, tmp_path, monkeypatch, capsys):
    precision = {"clean": (clean, 0.97), "shortcut": (broken, 0.02)}
    monkeypatch.setattr(shortcut, "_train_both", lambda *_: precision)
    monkeypatch.setattr(shortcut, "_audit_and_gate", lambda *_: verdict)
    for kind in precision:
        write_audit(tmp_path, kind, [(1.0, 1.0)])
    assert shortcut.run_shortcut(main, tmp_path) == code
    printed = capsys.readouterr().out
    assert all(f"{value:.3f}" in printed for pair in precision.values() for value in pair)


def write_audit(folder, kind, values):
    """Write an audit of objects with these values of sufficiency and necessity, and one that is missed."""
    record = make_record(len(values) + 1, 1, missed=0)
    rows = [
        replace(row, **hidden_pixels({"sufficiency": sufficiency, "necessity": necessity}))
        for row, (sufficiency, necessity) in zip(record.objects, values, strict=False)
    ]
    (folder / "audits").mkdir(exist_ok=True)
    record = replace(record, objects=(*rows, as_missed(record.objects[-1])))
    write_record(record, folder / "audits" / f"{kind}.json")
    return record


def test_the_story_ends_with_the_evidence_in_numbers_and_in_words(tmp_path, monkeypatch, capsys):
    precision = {"clean": (0.98, 0.97), "shortcut": (0.99, 0.02)}
    monkeypatch.setattr(shortcut, "_train_both", lambda *_: precision)
    monkeypatch.setattr(shortcut, "_audit_and_gate", lambda *_: 1)
    monkeypatch.setenv("COLUMNS", "80")
    clean = write_audit(tmp_path, "clean", [(1.0, 1.0), (0.75, 1.0), (0.5, 0.0), (0.4, None)])
    write_audit(tmp_path, "shortcut", [(0.0, 0.1), (0.25, 0.0), (None, 1.0)])
    assert shortcut.run_shortcut(main, tmp_path) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "…" not in printed  # no column is cut
    means = audit_means(clean.objects)
    near, on_object = (f"{means[f'iof/{name}']:.2f}" for name in ("near", "object"))
    assert f"│ clean │ 0.98 │ 0.97 │ 0.66 │ 0.67 │ {near} │ {on_object} │" in printed
    assert "│ shortcut │ 0.99 │ 0.02 │ 0.12 │ 0.37 │" in printed
    assert (
        "With all but the object hidden, the shortcut detector finds 0 of 2 objects, the clean one 3 of 4 objects; "
        "with the object hidden, the shortcut detector still finds 2 of 3 objects, the clean one 1 of 3 objects."
    ) in printed


def test_the_command_line_tells_the_story_where_it_is_asked_to(tmp_path, monkeypatch, capsys):
    told = []
    monkeypatch.setattr(shortcut, "run_shortcut", lambda *arguments: told.append(arguments) or 1)
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--shortcut"]) == 1
    assert main(["demo", "--shortcut", "--seed", "3", "--output", "there"]) == 1
    assert told == [(main, Path("runs/demo-shortcut"), 0), (main, Path("there"), 3)]
    assert main(["demo", "--shortcut", "--detector", "faster-rcnn"]) == 2
    assert "Expected --shortcut without --detector and --engine" in capsys.readouterr().err


def test_a_command_that_fails_ends_the_demonstration(tmp_path, monkeypatch):
    monkeypatch.setattr(shortcut, "_train_both", lambda *_: {"clean": (0.5, 0.5), "shortcut": (0.5, 0.5)})
    with pytest.raises(RuntimeError, match="odsg audit-set ended with exit code 3"):
        shortcut.run_shortcut(lambda words: 3, tmp_path)


@pytest.mark.slow
def test_the_example_runs(tmp_path, capsys, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    spec = importlib.util.spec_from_file_location("shortcut_example", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    code = example.main(["--output", str(tmp_path / "there"), "--steps", "2", "--images", "16", "--val-images", "24"])
    assert code == 3  # after two steps nothing is detected
    printed = capsys.readouterr().out
    assert "shortcut: AP50 0." in printed
    assert "occlusion/sufficiency -, occlusion/necessity -, iof/near -, iof/object -" in printed
    assert "NOT COMPARABLE" in printed
    assert (tmp_path / "there" / "report.html").is_file()
    assert list((tmp_path / "here").iterdir()) == []
