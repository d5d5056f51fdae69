"""``odsg explain`` on real checkpoints and picture files."""

import numpy as np
import pytest
import torch
from helpers.checkpoints import save_lightning
from PIL import Image

from odsg_lightning import DetectionModule
from odsg_lightning.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A detector that finds something everywhere, and two pictures of different sizes."""
    from lightning.pytorch import Trainer

    folder = tmp_path_factory.mktemp("explain")
    torch.manual_seed(0)
    module = DetectionModule("retinanet_tiny", {"MODEL.RETINANET.SCORE_THRESH_TEST": 0.0}, num_classes=3)
    module.category_names = ("cat", "dog", "cow")
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(folder / "model.ckpt", weights_only=True)
    for name, size in (("one.png", (64, 64)), ("two.jpg", (96, 64))):
        pixels = np.random.default_rng(size[0]).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "none.png").write_text("no picture")
    return folder


def explain(folder, *options):
    return main(["explain", str(folder / "model.ckpt"), *map(str, options), "--explainer", "gradient"])


FOUND = ("--score-threshold", "0", "--max-objects", "2")


def test_each_picture_gets_a_strip_of_every_detection(folder, tmp_path, capsys):
    assert explain(folder, folder / "one.png", folder / "two.jpg", "-o", tmp_path / "out", *FOUND) == 0
    text = capsys.readouterr().out
    assert text.count("score 0.") == 4
    assert text.endswith(f"Written: {tmp_path / 'out'}\n")
    for name in ("one.png", "two.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert picture.height > 2 * picture.width / 6  # two strips of six panels, one below the other


def test_arrays_of_one_picture(folder, tmp_path):
    assert explain(folder, folder / "two.jpg", "-o", tmp_path / "two.npz", *FOUND, "--against", "1") == 0
    with np.load(tmp_path / "two.npz") as arrays:
        assert arrays["maps"].shape == (2, 5, 85, 128)  # at the size that the detector sees
        assert arrays["image"].shape == (3, 85, 128)
        assert (arrays["box"].shape, arrays["score"].shape) == ((2, 4), (2,))
        assert arrays["parameters"].tolist() == ["x_min", "y_min", "x_max", "y_max", "score"]
        assert arrays["target"] == "logit"
        assert np.isfinite(arrays["maps"][:, 4]).all()


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        (0, (), (64, 96)),
        (None, (), (64, 96)),
        (0, ("--min-size", "128"), (128, 192)),
        (0, ("--max-size", "48"), (32, 48)),
    ],
)
def test_a_configuration_that_scales_nothing(tmp_path, folder, size, options, expected):
    module = DetectionModule(
        "retinanet_tiny", {"MODEL.RETINANET.SCORE_THRESH_TEST": 0.0, "INPUT.MIN_SIZE_TEST": size}, num_classes=3
    )
    save_lightning(module, tmp_path / "model.ckpt")
    assert explain(tmp_path, folder / "two.jpg", "-o", tmp_path / "two.npz", *FOUND, *options) == 0
    with np.load(tmp_path / "two.npz") as arrays:
        assert arrays["image"].shape == (3, *expected)


def test_classes_go_by_the_names_in_the_checkpoint(folder, tmp_path, capsys):
    asked = ("--ask", "cow", "--against", "cat", "--max-objects", "1", "--score-threshold", "0")
    assert explain(folder, folder / "one.png", "-o", tmp_path / "one.png", *asked) == 0
    assert "  cow rather than cat: score 0." in capsys.readouterr().out
    assert explain(folder, folder / "one.png", "-o", tmp_path / "one.png", "--class", "bird") == 2
    assert "one of cat, dog, cow, but got 'bird'" in capsys.readouterr().err


def test_nothing_detected_writes_nothing(folder, tmp_path, capsys):
    assert explain(folder, folder / "one.png", "-o", tmp_path / "one.png", "--score-threshold", "0.99") == 0
    assert "nothing that was asked for is detected" in capsys.readouterr().out
    assert not (tmp_path / "one.png").exists()


def test_a_point_is_in_pixels_of_the_file(folder, tmp_path, capsys):
    assert explain(folder, folder / "two.jpg", "-o", tmp_path / "x.png", *FOUND, "--point", "95,63") == 0
    capsys.readouterr()
    assert explain(folder, folder / "two.jpg", "-o", tmp_path / "x.png", *FOUND, "--point", "96,63") == 2
    assert "inside the picture" in capsys.readouterr().err


def test_a_point_that_is_none_is_said(folder, capsys):
    for text in ("12", "1,2,3", "x,y"):
        assert main(["explain", "model.ckpt", "one.png", "--point", text]) == 2
        assert f"expected X,Y in pixels, such as 120,80, but got '{text}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["one.png", "two.jpg", "-o", "x.png"], 2, "Expected one picture for the file"),
        (["none.png"], 3, "to be a complete image file"),
        (["missing.png"], 3, "there is none"),
        (["one.png", "--ask", "bird"], 2, "but got 'bird'"),
        (["one.png", "--ask", "7", "--score-threshold", "0"], 2, "one of cat, dog, cow, but got 7"),
        (["one.png", "--target", "output", "--ask", "1"], 2, "with target='logit'"),
        (["one.png", "--sigma", "nan"], 2, "`sigma` to be a finite number"),
    ],
)
def test_what_cannot_be_explained_is_said(folder, tmp_path, capsys, options, code, message):
    options = [str(folder / one) if one.endswith(("png", "jpg")) and one != "x.png" else one for one in options]
    options = options if "-o" in options else [*options, "-o", str(tmp_path / "out")]
    assert explain(folder, *options) == code
    assert message in capsys.readouterr().err
