"""What README.md says is run, so that it stays true."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers.known_detectors import box_sample
from helpers.runs import EVERY_TAG, trainer_with
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader
from torchvision.models.detection import retinanet_resnet50_fpn

from odsg_lightning import ODSmoothGradCallback
from odsg_lightning.demo.shapes import make_shapes
from odsg_lightning.names import PARAMETERS

README = (Path(__file__).parents[1] / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def replaced(code: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    return code


@pytest.mark.slow
def test_fifteen_lines_run(shapes_folder, tmp_path, monkeypatch):
    make_shapes(shapes_folder, n_train=240, n_val=24, seed=3)
    shutil.copytree(shapes_folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    small = {
        '"retinanet_R_50_FPN"': '"retinanet_tiny"',
        ', weights="model_final.pkl"': ", optimizer=torch.optim.AdamW",
        "audit_images=16": "audit_images=1, num_workers=0, min_size=[128], min_size_eval=128",
        "max_steps=10_000": "max_steps=2, accelerator='cpu', limit_val_batches=1",
        "val_check_interval=1_000": "val_check_interval=2",
    }
    names = {"torch": torch}
    exec(replaced(SNIPPETS[0], small), names)
    assert set(names["trainer"].callback_metrics) >= EVERY_TAG
    assert list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
def test_a_torchvision_module_joins_with_one_method():
    names = {"LightningModule": LightningModule}
    exec(SNIPPETS[1], names)

    class Trained(names["MyModule"]):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.model = retinanet_resnet50_fpn(
                weights=None, weights_backbone=None, num_classes=2, min_size=64, max_size=96, score_thresh=0.0
            )

        def validation_step(self, batch, _):
            pass

        def val_dataloader(self):
            return DataLoader(torch.rand(1, 1))

    module = Trained().eval()
    (detections,) = module.detect([torch.full((3, 64, 64), 128.0)])
    box = detections.boxes[0].round().int().tolist()  # an untrained model finds something somewhere: call it the truth
    sample = box_sample([box], [int(detections.labels[0])], size=64)
    audit = ODSmoothGradCallback(audit_samples=[sample], n_samples=1, score_threshold=0, pair_iou=0.1)
    (logged,) = trainer_with([audit]).validate(module, verbose=False)
    assert logged["audit/recall"] == 1
    assert 0 <= logged["iof/score/object"] <= 1


def test_every_logged_name_is_explained():
    table = (Path(__file__).parents[1] / "docs/reading.md").read_text()
    for tag in EVERY_TAG:
        group, *rest = tag.split("/")
        if group in ("drift_ref", "drift_noise"):  # "the same against ..."
            assert f"`{group}/...`" in table
            group = "drift"
        explained = {"/".join([group, *rest]), f"{group}/<parameter>/{rest[-1]}", f"/{rest[-1]}"}
        explained |= {f"{group}/<parameter>"} if rest[-1] in PARAMETERS else set()
        assert any(f"`{name}`" in table for name in explained), tag


def test_commands_of_the_readme_exist():
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
