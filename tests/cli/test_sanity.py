"""``odsg sanity`` on real files."""

import json
import logging

import pytest
from helpers.checkpoints import save_lightning
from PIL import Image

from odsg_lightning import DetectionModule
from odsg_lightning.cli import main
from odsg_lightning.demo.shapes import make_shapes
from odsg_lightning.names import PARAMETERS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two pictures, an audit set of them, and a detector that finds something everywhere."""
    folder = tmp_path_factory.mktemp("sanity")
    shapes = make_shapes(folder / "shapes", n_train=1, n_val=2)
    sizes = ("--min-size", "64", "--max-size", "64", "--count", "2")
    arguments = ("--annotations", str(shapes.val_annotations), "--images", str(shapes.val_images), *sizes)
    assert main(["audit-set", *arguments, "-o", str(folder / "audit_set.json")]) == 0
    module = DetectionModule("retinanet_tiny", {"MODEL.RETINANET.SCORE_THRESH_TEST": 0.0}, num_classes=3)
    save_lightning(module, folder / "model.ckpt")
    return folder


def sanity(folder, *options, checkpoint="model.ckpt", audit_set="audit_set.json"):
    fast = ("--explainer", "gradient", "--max-objects", "1")
    given = (str(folder / checkpoint), "--audit-set", str(folder / audit_set))
    return main(["sanity", *given, *fast, *map(str, options)])


def test_table_files_and_verdict(folder, tmp_path, capsys):
    assert sanity(folder, "-o", tmp_path / "out", "--score-threshold", "0") == 0
    printed = capsys.readouterr().out
    assert "gradient on model.ckpt: 2 detections in 2 images" in printed
    assert printed.count("stem") >= 3
    assert printed.endswith(f"Written: {tmp_path / 'out'}\n")
    content = json.loads((tmp_path / "out" / "sanity.json").read_text())
    assert list(content["values"])[-2:] == ["stem", "distance alone"]
    assert content["settings"]["explainer"] == "Gradient(engine='auto', precision='full', trim=0.0)"
    assert content["settings"]["max_objects"] == 1
    assert {name.partition("/")[2] for name in content["values"]["stem"]} == set(PARAMETERS)
    assert "| stem |" in (tmp_path / "out" / "sanity.md").read_text()
    with Image.open(tmp_path / "out" / "sanity.png") as picture:
        assert picture.width > picture.height


def test_nothing_detected_is_said(folder, tmp_path, capsys):
    assert sanity(folder, "-o", tmp_path, "--score-threshold", "1") == 0
    assert "Nothing was detected: there are no maps to compare." in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sanity.json", "sanity.md"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ({"checkpoint": "missing.ckpt"}, 3, "missing.ckpt"),
        ({"audit_set": "missing.json"}, 3, "missing.json"),
        ({"checkpoint": "audit_set.json"}, 2, "that ends in .ckpt"),
        (["--max-objects", "0"], 2, "`max_objects` to be None or at least 1"),
        (["--explainer", "smoothgrad", "--sigma", "-1"], 2, "`sigma` to be a finite number"),
        (["--explainer", "magic"], 2, "invalid choice"),
    ],
)
def test_bad_input(folder, capsys, caplog, options, code, message):
    caplog.set_level(logging.ERROR)
    given, named = (options, {}) if isinstance(options, list) else ((), options)
    assert sanity(folder, *given, **named) == code
    assert message in capsys.readouterr().err
