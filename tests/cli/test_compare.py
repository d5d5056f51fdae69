"""``odsg compare`` on a trained tiny RetinaNet, from the checkpoint to the page."""

import json

import pytest
from helpers.checkpoints import save_lightning, tiny_module

from odsg_lightning.checkpoints import compare
from odsg_lightning.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(trained_retinanet, shapes_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    module = tiny_module()
    module.detector.load_state_dict(trained_retinanet.model.state_dict())
    module.category_names = ("rectangle", "triangle", "star")
    save_lightning(module, folder / "model.ckpt")
    data = ("--annotations", str(shapes_folder / "annotations/val.json"), "--images", str(shapes_folder / "val"))
    sizes = ("--min-size", "128", "--max-size", "128", "--count", "3")
    assert main(["audit-set", *data, "-o", str(folder / "set.json"), *sizes]) == 0
    return folder


def run(place, output, *options):
    asked = ("--explainers", "gradient", "odam", "--steps", "2", "--devices", "1")
    return main(
        [
            "compare",
            str(place / "model.ckpt"),
            "--audit-set",
            str(place / "set.json"),
            "-o",
            str(output),
            *asked,
            *options,
        ]
    )


def told(output):
    content = json.loads((output / "comparison.json").read_text())
    content.pop("seconds")
    return content


@pytest.fixture(scope="module")
def finished(place):
    assert run(place, place / "finished") == 0
    return place / "finished"


def test_it_writes_tables_page_and_every_object(finished):
    content = told(finished)
    (checkpoint,) = content["checkpoints"]
    assert checkpoint["objects"]
    for one in checkpoint["objects"]:
        assert list(one["values"]) == ["gradient", "odam", "random", "centre"]
        assert one["values"]["odam"]["deletion"] >= 0
    assert "| odam |" in (finished / "comparison.md").read_text()
    assert "data:image/webp" in (finished / "comparison.html").read_text()


def test_the_same_call_tells_the_same_again_in_two_processes(place, finished, tmp_path):
    assert run(place, tmp_path / "again", "--devices", "2") == 0
    assert told(tmp_path / "again") == told(finished)


def test_an_interrupted_call_goes_on(place, finished, tmp_path, monkeypatch):
    original, calls = compare.compare_image, []

    def interrupted(detector, sample, *arguments, **settings):
        calls.append(sample.image_id)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(detector, sample, *arguments, **settings)

    monkeypatch.setattr(compare, "compare_image", interrupted)
    assert run(place, tmp_path / "out") == 130
    assert not (tmp_path / "out/comparison.json").exists()
    assert run(place, tmp_path / "out") == 0
    assert len(calls) == 4  # the first, the second twice, the third
    assert told(tmp_path / "out") == told(finished)
    assert run(place, tmp_path / "out") == 0
    assert len(calls) == 4  # nothing is left to explain
    assert run(place, tmp_path / "out", "--restart") == 0
    assert len(calls) == 7


def test_nothing_detected_is_said(place, tmp_path, capsys):
    assert run(place, tmp_path, "--score-threshold", "0.9999") == 0
    assert "No object was detected" in capsys.readouterr().out
    assert told(tmp_path)["checkpoints"][0]["objects"] == []


def test_nothing_detected_in_images_that_are_scaled_otherwise_is_explained(place, shapes_folder, tmp_path):
    data = ("--annotations", str(shapes_folder / "annotations/val.json"), "--images", str(shapes_folder / "val"))
    assert main(["audit-set", *data, "-o", str(tmp_path / "set.json"), "--min-size", "256", "--count", "1"]) == 0
    with pytest.warns(UserWarning, match=r"Nothing was detected by .*/model.ckpt. The audit set scales .* to 256 pix"):
        assert (
            run(place, tmp_path / "out", "--score-threshold", "0.9999", "--audit-set", str(tmp_path / "set.json")) == 0
        )


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--explainers", "grad-cam"], 2, "any of smoothgrad, gradient, odam"),
        (["--layer", "conv9"], 2, "'level', 'all' or one of"),
        (["--steps", "0"], 2, "`steps`"),
        (["--max-images", "0"], 2, "`max_images`"),
        (["--devices", "0"], 2, "`devices`"),
        (["--annotations", "missing.json"], 3, "missing.json"),
    ],
)
def test_bad_input_is_said(place, tmp_path, capsys, options, code, message):
    assert run(place, tmp_path, *options) == code
    assert message in capsys.readouterr().err


def test_a_checkpoint_named_twice_is_refused(place, tmp_path, capsys):
    twice = [str(place / "model.ckpt")] * 2
    assert main(["compare", *twice, "--audit-set", str(place / "set.json"), "-o", str(tmp_path)]) == 2
    assert "the same one twice" in capsys.readouterr().err
