"""The study runs, on a handful of pictures; and its marks are where they should be."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.scripts import EXAMPLES, same_threads, scripts_in
from PIL import Image


@pytest.fixture
def study(monkeypatch):
    """Import a file of the study as a script there would."""
    with scripts_in(EXAMPLES / "studies", monkeypatch) as script:
        yield script


def scene(height=100, width=120):
    """A grey picture with one object."""
    mask = np.zeros((height, width), bool)
    mask[40:70, 50:90] = True
    return np.full((height, width, 3), 128, np.uint8), [(50.0, 40.0, 90.0, 70.0)], [mask]


@pytest.mark.parametrize("kind", ["frames", "dot", "halo", "tint", "cast"])
def test_marks_have_the_colour_of_the_class_and_leave_the_object_alone(kind, study):
    marks = study("marks")
    pixels, boxes, masks = scene()
    marks.mark(pixels, boxes, masks, [1], kind, marks.Sizes(distance=12, arm=8, dot=4))
    changed = (pixels != 128).any(axis=-1)
    assert changed.any()
    assert changed[masks[0]].any() == (kind == "cast")  # which alone covers everything
    red, green, blue = pixels[changed].mean(axis=0)
    assert red < 128 < min(green, blue)  # cyan


def test_marks_anywhere_are_as_many_and_tell_nothing(study):
    marks = study("marks")
    sizes = marks.Sizes(distance=3, arm=8, dot=4)
    at_objects, boxes, masks = scene()
    marks.mark(at_objects, boxes, masks, [0], "frames", sizes)
    classes, places = set(), set()
    for seed in range(20):
        pixels, _, _ = scene()
        marks.mark_anywhere(np.random.default_rng(seed), pixels, boxes, "frames", sizes)
        changed = (pixels != 128).any(axis=-1)
        assert changed.sum() <= (at_objects != 128).any(axis=-1).sum()
        places.add(tuple(np.argwhere(changed)[0]))
        classes.add(tuple(pixels[changed][0]))
    assert len(classes) == 3
    assert len(places) > 15


def test_the_halves_share_no_detector_and_hold_every_kind(study):
    plan = study("detectors").PLAN
    halves = {
        half: {(d.data, d.group, d.cue, d.share) for d in plan.values() if d.half == half}
        for half in ("decide", "report")
    }
    assert halves["decide"] == halves["report"]
    for detector in plan.values():
        assert not detector.start or plan[detector.start].half == detector.half


def photographs(folder):
    """Two grey photographs with one bright cell each, laid out as the blood cells are."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").mkdir()
    images, annotations = [], []
    for index in (1, 2):
        pixels = np.full((480, 640, 3), 90, np.uint8)
        pixels[100:200, 200:320] = 200
        Image.fromarray(pixels).save(folder / "images" / f"{index}.jpg")
        images.append({"id": index, "file_name": f"{index}.jpg", "width": 640, "height": 480})
        box = {"bbox": [200, 100, 120, 100], "area": 12000, "iscrowd": 0}
        annotations.append({"id": index, "image_id": index, "category_id": 1, **box})
    annotations.append({"id": 3, "image_id": 1, "category_id": 2, "bbox": [5, 5, 0, 4], "area": 0, "iscrowd": 0})
    for split in ("train", "val"):
        text = json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "RBC"}]})
        (folder / "annotations" / f"{split}.json").write_text(text)


@pytest.fixture
def run(study, tmp_path, monkeypatch, capsys):
    """Run a script of the study as its main function, and return what it prints."""
    monkeypatch.chdir(tmp_path)

    def run_script(script, *arguments):
        capsys.readouterr()
        study(script.removesuffix(".py")).main(["--output", "study", *arguments])
        return capsys.readouterr().out

    with same_threads():
        yield run_script


@pytest.mark.slow
def test_every_script_of_the_study_runs(run):
    photographs(Path("bccd"))
    names = ["retinanet-honest-0", "retinanet-frames-0", "retinanet-tuned-0"]
    few = ("--steps", "1", "--training-images", "8")
    assert run("train.py", "--data", "shapes", *few, "--only", *names).count(" s\n") == 3
    assert run("train.py", "--data", "photos", *few, "--only", "photos-frames-0").count(" s\n") == 1
    assert run("train.py", "--data", "shapes", *few, "--only", *names) == ""  # all are there
    for data in ("shapes", "photos"):
        half = ("--data", data, "--half", "decide", "--images", "2")
        assert "frames-0--frames: " in run("occlude.py", *half)
        assert "frames-0--frames: 0 of " in run("audits.py", *half)
    assert "nothing detected" in run("choose.py")
    printed = run("table.py", "--images", "2")
    assert "bad: frames" in printed
    assert "fine-tuned" in printed
