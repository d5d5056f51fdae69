"""The example and the training configurations on real COCO images, with full-size detectors.

No trained weights can be had here, and an untrained detector finds nothing that an audit could explain. So a file of
weights is written with which a detector is sure of what it sees, whatever that is, and its own detections are the
annotations of a few real images: the audit must then find every one of them.
"""

import importlib.util
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.runs import EVERY_TAG, read_events

from odsg_lightning import CocoDetectionDataModule, DetectionModule
from odsg_lightning.cli import main
from odsg_lightning.config_files import config_names, config_path
from odsg_lightning.detectors.detectron2_import import require_detectron2

require_detectron2()

from detectron2.layers import FrozenBatchNorm2d  # noqa: E402

pytestmark = [pytest.mark.coco, pytest.mark.slow]

SIZE = 160
N_IMAGES, N_OBJECTS = 2, 1
DETECTORS = ["retinanet_R_50_FPN", "faster_rcnn_R_50_FPN"]
EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "finetune_coco.py"


@dataclass(frozen=True)
class Known:
    """A detector, and validation images of which it knows every object."""

    name: str
    weights: Path
    train_annotations: Path
    train_images: Path
    val_annotations: Path
    val_images: Path

    def data(self, prefix: str = "--data.") -> list[str]:
        names = ("train_annotations", "train_images", "val_annotations", "val_images")
        return [f"{prefix}{name}={getattr(self, name)}" for name in names]


def _sure_of_itself(name: str) -> DetectionModule:
    torch.manual_seed(0)
    module = DetectionModule(name, num_classes=80).eval()
    with torch.no_grad():
        for layer, part in module.detector.named_modules():
            # At their initial scale of 1 the sixteen residual blocks blow the activations up by a factor of hundreds.
            if isinstance(part, FrozenBatchNorm2d) and layer.endswith("conv3.norm"):
                part.weight.fill_(0.2)
        if name.startswith("retinanet"):
            module.detector.head.cls_score.bias.view(-1, 80)[:, 0] = 1.0
        else:
            module.detector.roi_heads.box_predictor.cls_score.bias[0] = 6.0
    return module


def _annotate(module: DetectionModule, coco_tiny: Path, file: Path) -> None:
    """Write the first validation images with the highest scoring detections in place of the annotations."""
    annotations = coco_tiny / "annotations"
    data = CocoDetectionDataModule(
        annotations / "instances_train2017.json",
        coco_tiny / "train2017",
        annotations / "instances_val2017.json",
        coco_tiny / "val2017",
        min_size_eval=SIZE,
    )
    content = json.loads((annotations / "instances_val2017.json").read_text())
    records: list[dict[str, Any]] = []
    chosen = []
    for index in range(N_IMAGES):
        with torch.no_grad():
            (found,) = module.predict_step([data.val_dataset[index]], 0)
        chosen.append(found["image_id"])
        for box, label in list(zip(found["boxes"].tolist(), found["labels"].tolist(), strict=True))[:N_OBJECTS]:
            x0, y0, x1, y1 = box
            records.append(
                {
                    "id": len(records) + 1,
                    "image_id": found["image_id"],
                    "category_id": data.category_ids[label],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
                    "iscrowd": 0,
                }
            )
    content["images"] = [image for image in content["images"] if image["id"] in chosen]
    file.write_text(json.dumps({**content, "annotations": records}))


@pytest.fixture(scope="module", params=DETECTORS)
def known(request: pytest.FixtureRequest, coco_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Known]:
    folder = tmp_path_factory.mktemp(request.param)
    module = _sure_of_itself(request.param)
    module.export_weights(folder / "model.pth")
    _annotate(module, coco_tiny, folder / "val.json")
    yield Known(
        request.param,
        folder / "model.pth",
        coco_tiny / "annotations" / "instances_train2017.json",
        coco_tiny / "train2017",
        folder / "val.json",
        coco_tiny / "val2017",
    )
    shutil.rmtree(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that is emptied at once: pytest keeps its own for a while, and a checkpoint takes 300 MB."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture
def finetune_coco() -> Any:
    spec = importlib.util.spec_from_file_location("finetune_coco", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_training_configuration_is_tested_here():
    assert sorted(f"training/{name}" for name in DETECTORS) == config_names("training")


def test_the_configuration_as_it_is_runs(known, folder, monkeypatch):
    monkeypatch.chdir(folder)  # it logs below the current folder
    arguments = ["--data.min_size=160", "--data.min_size_eval=160", "--data.num_workers=0", "--trainer.accelerator=cpu"]
    assert main(["fit", "--config", known.name, *known.data(), *arguments, "--trainer.fast_dev_run=true"]) == 0
    assert not list(folder.rglob("events*"))


def _quick(known: Known, folder: Path) -> str:
    """The configuration as a user edits it, for two steps and a small audit on a CPU."""
    values = yaml.safe_load(config_path(f"training/{known.name}").read_text(encoding="utf-8"))
    values["trainer"].update(accelerator="cpu", max_steps=2, val_check_interval=2, log_every_n_steps=1)
    values["trainer"].update(enable_progress_bar=False, enable_model_summary=False)
    values["trainer"]["logger"]["init_args"]["save_dir"] = str(folder)
    audit = values["trainer"]["callbacks"][0]["init_args"]
    # Proposals of an untrained RPN jump at more noise, and no detection would be found again.
    audit.update(n_samples=1, score_threshold=0.0, sigma=0.001)
    values["data"].update(min_size=[SIZE], min_size_eval=SIZE, num_workers=0, audit_images=N_IMAGES)
    values["model"]["weights"] = str(known.weights)
    path = folder / "quick.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def _check_audit(values: dict[str, float]) -> None:
    assert values["audit/n_failed"] == 0
    assert values["audit/n_objects"] == N_IMAGES * N_OBJECTS
    assert values["audit/coverage"] == 1
    assert values["audit/match_rate"] > 0
    assert values["audit/n_undefined"] < N_IMAGES * N_OBJECTS * 5
    assert 0 < values["iof/object"] <= 1
    assert 0 < values["val/map_50"] <= 1


def test_the_configuration_trains_and_audits_real_images(known, folder):
    assert main(["fit", "--config", _quick(known, folder), *known.data()]) == 0
    events = read_events(folder)
    scalars = {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}
    assert set(scalars) >= EVERY_TAG
    assert math.isfinite(scalars["train/loss"])
    _check_audit(scalars)
    strips = [tag for tag in events.Tags()["images"] if tag.startswith("saliency/")]
    assert len(strips) == N_IMAGES * N_OBJECTS
    names = sorted(path.name for path in folder.rglob("*.ckpt"))
    assert names[0] == "last.ckpt"
    assert names[1].startswith("step_2_map_")


ARGUMENTS = ["--max-steps=2", "--validations=1", "--image-size=160", "--num-workers=0", "--n-samples=1"]


def example_arguments(known: Known, folder: Path) -> list[str]:
    data = [argument.replace("_", "-", 1) for argument in known.data("--")]
    return [*data, "--config", known.name, f"--output={folder}", *ARGUMENTS]


@pytest.mark.parametrize("known", ["retinanet_R_50_FPN"], indirect=True)
def test_the_example_fine_tunes_and_audits(known, finetune_coco, folder, capsys):
    arguments = ["--weights", str(known.weights), "--learning-rate=1e-6", "--score-threshold=0"]
    metrics = finetune_coco.main([*example_arguments(known, folder), *arguments])
    _check_audit(metrics)
    assert read_events(folder).Scalars("audit/coverage")[-1].value == metrics["audit/coverage"]
    printed = capsys.readouterr().out
    assert "iof/object " in printed
    assert f"tensorboard --logdir {folder} --samples_per_plugin images=200" in printed
    (checkpoint,) = folder.rglob("*.ckpt")
    assert str(checkpoint) in printed


@pytest.mark.parametrize("known", ["faster_rcnn_R_50_FPN"], indirect=True)
def test_without_weights_the_audit_says_that_nothing_is_found(known, finetune_coco, folder):
    metrics = finetune_coco.main([*example_arguments(known, folder), "--audit-images=1"])
    assert math.isfinite(metrics["train/loss"])
    assert metrics["audit/coverage"] == 0
    assert metrics["audit/n_failed"] == 0
    assert metrics["audit/n_objects"] == N_OBJECTS
    assert math.isnan(metrics["iof/object"])
