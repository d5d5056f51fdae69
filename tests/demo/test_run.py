from functools import partial

import numpy as np
import pytest
from helpers.runs import EVERY_TAG, read_events
from PIL import Image

from odsg_lightning.demo import recipe, run
from odsg_lightning.demo.shapes import make_shapes
from odsg_lightning.names import BOX_PARAMETERS


@pytest.mark.slow
def test_demo_learns_its_task_and_each_edge_looks_at_its_edge(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, "_VALIDATIONS", 2)  # of six, of six noise samples, not twenty: training takes the time
    monkeypatch.setattr(run, "ODSmoothGradCallback", partial(run.ODSmoothGradCallback, n_samples=6))
    assert run.run_demo("retinanet", tmp_path) == 0
    printed = capsys.readouterr().out
    for words in ("AP50", "recall", "seconds training", "seconds auditing", "opposite", "tensorboard --logdir"):
        assert words in printed
    events = read_events(tmp_path)
    assert events.Scalars("val/map_50")[-1].value >= 0.9
    assert set(events.Tags()["scalars"]) >= EVERY_TAG
    assert len(events.Scalars("iof/object")) == 2
    assert events.Scalars("audit/n_failed")[-1].value == 0
    for parameter in BOX_PARAMETERS:
        edge, opposite = (events.Scalars(f"iof/{parameter}/{region}")[-1].value for region in ("edge", "opposite"))
        assert edge > 1.5 * opposite, parameter


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["retinanet", "faster-rcnn"])
def test_files_of_a_run_cut_short(detector, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(recipe, "make_shapes", partial(make_shapes, n_train=40))
    config, _ = run.RECIPES[detector]
    monkeypatch.setattr(run, "RECIPES", {detector: (config, 2)})
    monkeypatch.setattr(run, "_VALIDATIONS", 2)
    assert run.run_demo(detector, tmp_path) == 1
    assert "the detector did not learn its task" in capsys.readouterr().out
    version = tmp_path / detector / "version_0"
    assert list(version.glob("events.out.tfevents.*"))
    pictures = sorted((version / "strips").rglob("*.png"))
    assert [path.name for path in pictures] == ["step_000000.png", "step_000001.png"] * 16
    assert np.asarray(Image.open(pictures[0])).shape[2] == 3


def test_unknown_detector(tmp_path):
    with pytest.raises(ValueError, match="`detector` to be one of \\['faster-rcnn', 'retinanet'\\], but got 'yolo'"):
        run.run_demo("yolo", tmp_path)
    assert list(tmp_path.iterdir()) == []
