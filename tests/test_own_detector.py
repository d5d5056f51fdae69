"""The tutorial for a detector of one's own: its code runs, is found to be right, and is audited while it trains."""

import re
from pathlib import Path

import torch
from test_readme import replaced

from odsg_lightning import check_adapter
from odsg_lightning.demo.shapes import make_shapes

TUTORIAL = (Path(__file__).parents[1] / "docs" / "own_detector.md").read_text()
CODE = "\n".join(re.findall(r"```python\n(.*?)```", TUTORIAL, re.DOTALL))
SMALL = {
    "min_size_eval=640": "min_size_eval=64, min_size=64, num_workers=0, audit_images=1",
    "score_threshold=0.5": "score_threshold=0.0, pair_iou=0.01, match_iou=0.1, n_samples=2, max_objects_per_image=1",
    "max_steps=10_000, val_check_interval=1_000": "max_steps=4, val_check_interval=4, limit_val_batches=1, "
    "logger=False, enable_progress_bar=False, enable_checkpointing=False, accelerator='cpu'",
}


def test_the_tutorial_runs(tmp_path, monkeypatch, capsys):
    make_shapes(tmp_path, n_train=4, n_val=2, size=64)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {}
    exec(replaced(CODE, SMALL), names)
    assert "differentiable" in capsys.readouterr().out
    check = names["check"]
    assert check.ok
    assert {check[name].status for name in ("outputs", "differentiable", "finite differences", "scores", "state")} == {
        "ok"
    }
    assert {finding.check for finding in check.of_status("warning")} <= {"labels"}  # random weights
    values = names["trainer"].callback_metrics
    assert values["audit/n_failed"] == 0
    assert values["audit/recall"] > 0
    assert 0 <= values["iof/score/object"] <= 1


def test_its_detector_trained_on_one_image_passes_what_random_weights_leave_undecided(tmp_path, monkeypatch):
    make_shapes(tmp_path, n_train=4, n_val=2, size=64)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {}
    exec(replaced(CODE.partition("audit = ODSmoothGradCallback")[0], {k: SMALL[k] for k in list(SMALL)[:1]}), names)
    module, sample = names["module"], names["sample"]
    example = {"image": sample.image, "boxes": sample.boxes, "labels": sample.labels}
    optimizer = torch.optim.AdamW(module.parameters(), 2e-3)
    for _ in range(40):
        optimizer.zero_grad()
        module.loss(example).backward()
        optimizer.step()
    check = check_adapter(module, sample.image, annotations=sample, num_classes=3)
    assert {check[name].status for name in ("box format", "labels")} == {"ok"}
