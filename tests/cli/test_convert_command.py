"""``odsg convert``, and consoles that cannot print what a data set calls its categories."""

import io
import json

import pytest
from helpers.coco_files import CocoFiles, gradient_image

from odsg_lightning.cli import main

LETTERS = "Kratzer größer 试验"


def voc(folder, name="scratch"):
    gradient_image(64, 48).save(folder / "a.png")
    (folder / "a.xml").write_text(
        f"<annotation><filename>a.png</filename><size><width>64</width><height>48</height></size><object><name>{name}"
        "</name><difficult>1</difficult><bndbox><xmin>9</xmin><ymin>9</ymin><xmax>70</xmax><ymax>40</ymax></bndbox>"
        "</object></annotation>",
        encoding="utf-8",
    )
    return ["convert", "voc", "--annotations", str(folder), "--images", str(folder), "-o", str(folder / "a.json")]


def test_voc_is_written_once_and_checked_as_training_does(tmp_path, capsys, caplog):
    pytest.importorskip("globox")
    command = voc(tmp_path)
    assert main(command) == 0
    assert json.loads((tmp_path / "a.json").read_text())["annotations"][0]["bbox"] == [8, 8, 62, 32]
    out = capsys.readouterr().out
    assert "       1 scratch\n1 objects are marked difficult" in out
    assert f"Written: {tmp_path / 'a.json'}, 1 images, in {tmp_path}" in out
    assert "1 boxes over the border, clipped to their image" in caplog.text
    assert main(command) == 2
    assert "Add --force to overwrite it" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0


def test_yolo_is_written(tmp_path, capsys):
    pytest.importorskip("globox")
    (tmp_path / "data.yaml").write_text("val: images\nnames: [scratch]\n")
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    gradient_image(64, 48).save(tmp_path / "images/a.png")
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    command = ["convert", "yolo", "--data", str(tmp_path / "data.yaml"), "-o", str(tmp_path / "a.json")]
    assert main([*command, "--split", "val"]) == 0
    assert json.loads((tmp_path / "a.json").read_text())["annotations"][0]["bbox"] == [16, 12, 32, 24]
    assert main([*command, "--force"]) == 3
    assert "under 'train', but it has only ['names', 'val']" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("command", ["audit-set", "convert"])
def test_a_console_that_cannot_print_a_category(tmp_path, monkeypatch, encoding, command):
    if command == "convert":
        pytest.importorskip("globox")
        arguments = voc(tmp_path, LETTERS)
    else:
        files = CocoFiles(tmp_path, categories=[{"id": 3, "name": LETTERS}, {"id": 7, "name": "dog"}]).write()
        arguments = [
            "audit-set",
            "--annotations",
            files.json,
            "--images",
            files.images_dir,
            "-o",
            tmp_path / "set.json",
        ]
    console = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", console)
    assert main([*map(str, arguments)]) == 0
    console.flush()
    shown = console.buffer.getvalue()
    assert b"Kratzer gr" in shown
    assert rb"\u8bd5\u9a8c" in shown
