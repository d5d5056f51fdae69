import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from helpers.checkpoints import save_lightning, save_zoo_pickle, tiny_module
from helpers.runs import module_like, quick_audit, shapes_data, trainer_with

from odsg_lightning import DetectionModule
from odsg_lightning.checkpoints import audit as checkpoint_audit
from odsg_lightning.cli import main
from odsg_lightning.files import sha256_of
from odsg_lightning.names import EDGE_NAMES, MAP_NAMES, OCCLUSION_NAMES
from odsg_lightning.records.audit_set import read_audit_set
from odsg_lightning.records.maps_file import maps_beside
from odsg_lightning.records.means import audit_means
from odsg_lightning.records.partial import PartialAudit
from odsg_lightning.records.record import read_record

QUICK = ["--score-threshold", "0.3"]


@pytest.fixture(scope="module")
def trained(trained_retinanet, shapes_folder, tmp_path_factory):
    """A checkpoint that a Trainer with an audit wrote, and an audit set of six images."""
    folder = tmp_path_factory.mktemp("audit")
    module = module_like(trained_retinanet.model)
    trainer = trainer_with([quick_audit(n_samples=1)], max_steps=1, val_check_interval=1)
    trainer.fit(module, datamodule=shapes_data(shapes_folder, audit_images=1))
    trainer.save_checkpoint(folder / "model.ckpt")
    module.export_weights(folder / "model.pth")
    save_zoo_pickle(module, folder / "model.pkl")
    annotations, images = shapes_folder / "annotations" / "val.json", shapes_folder / "val"
    command = ["audit-set", "--annotations", annotations, "--images", images, "-o", folder / "set.json"]
    assert main([*map(str, command), "--count", "6", "--min-size", "128"]) == 0
    return folder


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    """Where audits are written: no repository."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(trained, output, *more, name="model.ckpt", n_samples=2):
    fixed = [trained / name, "--audit-set", trained / "set.json", "-o", output, "--n-samples", n_samples]
    return ["audit", *map(str, fixed), *QUICK, *more]


def content(output):
    return [(output.with_name(f"{output.stem}{suffix}")).read_bytes() for suffix in (".json", ".maps.npz")]


# The audit set --------------------------------------------------------------------------------------------------------


def audit_set(shapes_folder, output, *more):
    command = ["--annotations", shapes_folder / "annotations" / "val.json", "--images", shapes_folder / "val"]
    return main(["audit-set", *map(str, command), "-o", str(output), "--min-size", "128", *more])


def test_an_audit_set_is_written_once(trained, shapes_folder, place, capsys):
    output = place / "set.json"
    assert audit_set(shapes_folder, output, "--count", "17", "--seed", "2") == 0
    printed = capsys.readouterr()
    assert "17" in printed.out
    assert "rectangle" in printed.out
    assert "recommended" not in printed.err
    first = output.read_bytes()
    assert len(read_audit_set(output).images) == 17
    assert audit_set(shapes_folder, output, "--count", "17", "--seed", "2") == 2
    assert "Add --force" in capsys.readouterr().err
    assert audit_set(shapes_folder, output, "--count", "17", "--seed", "2", "--force") == 0
    assert output.read_bytes() == first
    assert audit_set(shapes_folder, output, "--image-ids", "3", "1", "--force") == 0
    assert [image.id for image in read_audit_set(output).images] == [1, 3]


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--count", "0"], 2, "`count` to be at least 1"),
        (["--min-size", "100000"], 2, "min_size must be smaller"),
        (["--image-ids", "999"], 2, r"but got [999]"),
        (["--annotations", "none.json"], 3, "Expected a COCO JSON file at none.json, but No such file"),
        (["--images", "none"], 3, "there is none"),
    ],
)
def test_mistakes_of_an_audit_set(trained, shapes_folder, place, capsys, more, code, message):
    assert audit_set(shapes_folder, place / "set.json", *more) == code
    assert message in capsys.readouterr().err
    assert list(place.iterdir()) == []


# The audit ------------------------------------------------------------------------------------------------------------


def test_every_kind_of_checkpoint_gives_the_same_record(trained, place, capsys, caplog):
    caplog.set_level(logging.INFO)
    outputs = [place / "audits" / f"{kind}.json" for kind in ("ckpt", "pth", "pkl")]
    for output in outputs:
        config = [] if output.stem == "ckpt" else ["--config", "retinanet_tiny"]
        assert main(arguments(trained, output, *config, name=f"model.{output.stem}")) == 0
    printed = capsys.readouterr()
    assert "What model.ckpt looks at" in printed.out
    for column in ("edge", "object", "near"):
        assert column in printed.out
    for counted in ("sufficiency", "necessity", "recall", "defined maps", "match rate"):
        assert printed.out.count(counted) == 3
    assert "engine='windowed'" in caplog.text
    records = [read_record(output) for output in outputs]
    assert records[0].objects == records[1].objects == records[2].objects
    assert records[0].fingerprint["audit_set"] == read_audit_set(trained / "set.json").sha256
    assert [record.provenance["checkpoint"] for record in records] == ["model.ckpt", "model.pth", "model.pkl"]
    assert records[2].provenance["checkpoint_sha256"] == sha256_of(trained / "model.pkl")
    detected = {row.key for row in records[0].objects if not row.missed}
    maps = maps_beside(outputs[0], records[0].maps)
    assert len(detected) >= 3
    assert maps.keys == detected
    assert all(maps.strip(key) for key in detected)
    assert sorted(path.name for path in (place / "audits").iterdir()) == sorted(
        f"{kind}{suffix}" for kind in ("ckpt", "pth", "pkl") for suffix in (".json", ".maps.npz")
    )


def test_the_record_is_that_of_the_library_in_training(trained, trained_retinanet, shapes_folder, place):
    """The same image ids in a data module have the same fingerprint, and the same weights the same rows."""
    main(arguments(trained, place / "r.json"))
    record = read_record(place / "r.json")
    ids = [image.id for image in read_audit_set(trained / "set.json").images]
    data = shapes_data(shapes_folder, audit_image_ids=ids)
    assert data.audit_set_sha256() == record.fingerprint["audit_set"]
    assert data.audit_set_masks() == record.fingerprint["masks"]
    trainer = trainer_with([quick_audit(n_samples=2, save_records=True, drift=False)], default_root_dir=place / "run")
    trainer.validate(DetectionModule.load_from_checkpoint(trained / "model.ckpt"), data, verbose=False)
    audited = read_record(place / "run" / "audits" / "validate.json")
    assert audited.fingerprint == record.fingerprint
    assert audited.objects == record.objects
    detected = [row for row in record.objects if not row.missed]
    assert all(set(row.occlusion) == set(OCCLUSION_NAMES) and len(row.detected_again) >= 2 for row in detected)
    assert all(set(row.box_maps) == set(MAP_NAMES) for row in detected)
    assert all(set(row.edges) == set(EDGE_NAMES) for row in detected)
    assert audited.metrics["occlusion/sufficiency"] == pytest.approx(
        audit_means(record.objects)["occlusion/sufficiency"], abs=1e-6
    )


def until_images_are_finished(process, folder, count):
    """Wait for the audit in another process to have finished some images, but not all."""
    deadline = time.monotonic() + 600
    while len(list(folder.glob("image_*.json"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def interrupted(command, partial, images, how):
    """Run the command in another process, and send it a signal once so many images are finished."""
    # A shell may start us with SIGINT ignored, which a child inherits.
    restore = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, **pipes, env=environment, preexec_fn=restore)
    until_images_are_finished(process, partial, images)
    process.send_signal(how)
    process.communicate(timeout=600)
    return process.returncode


@pytest.mark.slow
def test_an_interrupted_audit_goes_on_and_gives_the_same_bytes(trained, place, caplog):
    """Killed without a warning after two images, then stopped by Ctrl-C after four."""
    (place / "whole").mkdir()
    assert main(arguments(trained, place / "whole" / "r.json", n_samples=6)) == 0
    output, partial = place / "r.json", place / ".r.partial"
    command = [sys.executable, "-m", "odsg_lightning.cli", *arguments(trained, output, n_samples=6)]
    assert interrupted(command, partial, 2, signal.SIGKILL) == -signal.SIGKILL
    assert interrupted(command, partial, 4, signal.SIGINT) == 130
    assert not output.exists()
    finished = len(list(partial.glob("image_*.json")))
    assert 4 <= finished < 6
    audited, real = [], checkpoint_audit.load_sample
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_audit, "load_sample", lambda *its: audited.append(its) or real(*its))
        assert main(arguments(trained, output, n_samples=6)) == 0
    assert len(audited) == 6 - finished  # what was finished is not done again
    assert content(output) == content(place / "whole" / "r.json")
    assert not partial.exists()
    assert "thrown away" not in caplog.text


def test_settings_of_the_evidence_are_those_of_the_record(trained, place, capsys):
    chosen = {"near-threshold": 0.6, "near-margin": 0.3, "sufficiency-margin": 0.05, "necessity-margin": 0.25}
    more = [word for name, value in chosen.items() for word in (f"--{name}", str(value))]
    few = ["--no-maps", "--max-objects-per-image", "1"]
    assert main(arguments(trained, place / "a.json", *few, *more, n_samples=1)) == 0
    told = read_record(place / "a.json").fingerprint
    assert {name: told[name.replace("-", "_")] for name in chosen} == chosen
    assert main(arguments(trained, place / "b.json", *few, "--no-occlusion", n_samples=1)) == 0
    without = read_record(place / "b.json")
    assert without.fingerprint["occlusion"] is False
    assert all(not row.occlusion and not row.detected_again for row in without.objects)
    assert any(row.iof and row.iof["score/near"] is not None for row in without.objects)
    capsys.readouterr()
    for name in chosen:
        assert main(arguments(trained, place / "c.json", f"--{name}", "-1")) == 2
        assert f"Expected argument `{name.replace('-', '_')}` to be" in capsys.readouterr().err


def leave_unfinished(trained, output, *more):
    """Stop an audit after its second image, as an error would."""
    calls = []
    add = PartialAudit.add

    def add_twice(self, rows, maps):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(add(self, rows, maps))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartialAudit, "add", add_twice)
        assert main(arguments(trained, output, *more)) == 130


@pytest.mark.parametrize(
    ("more", "environment", "notice"),
    [
        ([], {}, ""),
        (["--seed", "1"], {}, "it differs in 'fingerprint'"),
        (["--no-occlusion"], {}, "it differs in 'fingerprint'"),
        (["--engine", "cut"], {}, "it differs in 'settings'"),
        (["--no-maps"], {}, "it differs in 'with_maps'"),
        (["--restart"], {}, "as asked for"),
        ([], {"CI": "true"}, "in CI it may have come with a pull request"),
        ([], {"CI": "off"}, ""),
    ],
)
def test_what_is_left_is_used_only_if_it_fits(trained, place, monkeypatch, caplog, more, environment, notice):
    leave_unfinished(trained, place / "r.json")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(arguments(trained, place / "r.json", *more)) == 0
    assert notice in caplog.text
    assert bool(notice) == ("thrown away" in caplog.text)
    assert not (place / ".r.partial").exists()


@pytest.mark.parametrize(("value", "is_ci"), [("yes", True), ("no", False)])
def test_what_an_audit_takes_for_ci_is_what_accepting_a_baseline_does(
    trained, place, monkeypatch, caplog, capsys, value, is_ci
):
    leave_unfinished(trained, place / "r.json")
    monkeypatch.setenv("CI", value)
    assert main(arguments(trained, place / "r.json")) == 0
    assert ("in CI it may have come with a pull request" in caplog.text) == is_ci
    code = main(["baseline", "accept", str(place / "r.json"), "-o", str(place / "baseline.json"), "--reason", "first"])
    assert (code, "not in CI" in capsys.readouterr().err) == ((2, True) if is_ci else (0, False))


def test_two_audits_are_the_same_bytes_and_a_record_is_replaced(trained, place):
    first, second = place / "r.json", place / "s" / "r.json"
    for output in (first, second):
        assert main(arguments(trained, output)) == 0
    assert content(first) == content(second)
    assert main(arguments(trained, first, "--seed", "1")) == 0
    assert content(first) != content(second)
    assert main(arguments(trained, first, "--seed", "1", "--no-maps")) == 0
    assert sorted(path.name for path in place.iterdir()) == ["r.json", "s"]  # no maps of another record
    assert read_record(first).maps is None


def test_an_output_that_is_no_record_is_not_written_over(trained, place, capsys):
    for text in ("my thesis", "{}"):
        (place / "r.json").write_text(text)
        assert main(arguments(trained, place / "r.json")) == 2
        assert "An output is not written over, unless it is an audit record" in capsys.readouterr().err
        assert (place / "r.json").read_text() == text
    (place / "r.json").unlink()
    (place / "r.maps.npz").write_text("my measurements")
    assert main(arguments(trained, place / "r.json")) == 2
    assert (place / "r.maps.npz").read_text() == "my measurements"


def test_a_baseline_is_not_written_over(trained, place, capsys):
    assert main(arguments(trained, place / "r.json", "--no-maps")) == 0
    record = json.loads((place / "r.json").read_text())
    record["accepted"] = [{"reason": "first", "date": "2026-01-01", "record_sha256": "0" * 64}]
    (place / "r.json").write_text(json.dumps(record))
    before = (place / "r.json").read_bytes()
    assert main(arguments(trained, place / "r.json")) == 2
    assert "it is an accepted baseline" in capsys.readouterr().err
    assert (place / "r.json").read_bytes() == before


def test_at_most_so_many_objects_of_an_image(trained, place):
    assert main(arguments(trained, place / "r.json", "--max-objects-per-image", "1")) == 0
    chosen = read_audit_set(trained / "set.json")
    record = read_record(place / "r.json")
    assert {image_id for image_id, _ in record.by_key} == {image.id for image in chosen.images}
    assert len(record.by_key) == len(chosen.images) < sum(len(image.annotation_ids) for image in chosen.images)
    counts = Counter(row.category for row in record.objects)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert record.fingerprint["objects_chosen"] == "balanced over the classes"


def test_an_audit_that_pairs_nothing_says_why(trained, place):
    with pytest.warns(
        UserWarning, match=r"0 of \d+ objects were paired .* threshold of 0.999: 0, of which 0 .*: 0\.\d"
    ):
        assert main(arguments(trained, place / "r.json", "--score-threshold", "0.999", n_samples=1)) == 0


def test_an_audit_of_images_that_are_scaled_otherwise_says_so(trained, shapes_folder, place):
    assert audit_set(shapes_folder, place / "set.json", "--count", "2", "--min-size", "640") == 0
    with pytest.warns(
        UserWarning, match=r"scales its images to 640 pixels, at most 1333, .* 128, at most 128 \(INPUT.MIN_SIZE_TEST"
    ):
        assert main(arguments(trained, place / "r.json", "--audit-set", str(place / "set.json"), n_samples=1)) == 0


def test_what_was_measured_elsewhere_is_kept_in_the_record(trained, place):
    metrics = ["--metric", "val/map=0.41", "--metric", "val/map_50=0.625", "--max-objects-per-image", "1"]
    assert main(arguments(trained, place / "a.json", *metrics, n_samples=1)) == 0
    assert read_record(place / "a.json").metrics == {"val/map": 0.41, "val/map_50": 0.625}


@pytest.mark.parametrize("metric", ["val/map", "=1", "val/map=high", "val/map=nan", "val/map=1e308"])
def test_a_metric_that_is_no_number_is_refused(trained, place, capsys, metric):
    assert main(arguments(trained, place / "a.json", "--metric", metric)) == 2
    assert "Expected --metric to be NAME=VALUE with a finite number" in capsys.readouterr().err
    assert list(place.iterdir()) == []


def test_the_set_may_lie_elsewhere(trained, shapes_folder, place):
    moved = place / "elsewhere"
    moved.mkdir()
    (moved / "set.json").write_bytes((trained / "set.json").read_bytes())
    command = arguments(trained, place / "r.json", "--no-maps")
    command[command.index(str(trained / "set.json"))] = str(moved / "set.json")
    assert main(command) == 3
    where = ["--annotations", shapes_folder / "annotations" / "val.json", "--images", shapes_folder / "val"]
    assert main([*command, *map(str, where)]) == 0


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["-o", "r.txt"], 2, "ends in .json"),
        (["--n-samples", "0"], 2, "`n_samples` to be an integer of at least 1"),
        (["--device", "cuda"], 2, "PyTorch finds no GPU"),
        (["--audit-set", "none.json"], 3, "none.json, but No such file"),
        (["--config", "retinanet_tiny"], 2, "carries both"),
    ],
)
def test_mistakes(trained, place, capsys, monkeypatch, more, code, message):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(arguments(trained, place / "r.json", *more)) == code
    assert message in capsys.readouterr().err
    assert list(place.iterdir()) == []


def test_too_few_classes_are_refused(trained, place, capsys):
    save_lightning(tiny_module(num_classes=2), place / "two.ckpt")
    command = arguments(trained, place / "r.json")
    command[1] = "two.ckpt"
    assert main(command) == 3
    assert "at least 3 classes, the number of categories of the audit set, but it has 2" in capsys.readouterr().err
    assert [path.name for path in place.iterdir()] == ["two.ckpt"]


def test_the_arguments_and_the_settings_agree():
    """Each setting is an argument, and one that is not given keeps its default."""
    from odsg_lightning.audit.config import AuditConfig
    from odsg_lightning.cli.audit import _NUMBERS, add

    parser = argparse.ArgumentParser()
    add(parser.add_subparsers())
    given = vars(parser.parse_args(["audit", "model.ckpt", "--audit-set", "set.json", "-o", "r.json"]))
    given["occlusion"] = not given.pop("no_occlusion")
    assert {name: given[name] for name in vars(AuditConfig())} == vars(AuditConfig())
    rest = set(vars(AuditConfig())) - {name.replace("-", "_") for name in _NUMBERS}
    assert rest == {"explainer", "explainer_settings", "target", "engine", "precision", "occlusion"}


def test_help_loads_no_torch():
    code = (
        "import sys; from odsg_lightning.cli import main\nmain(['audit', '--help'])\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert "--score-threshold" in done.stdout
