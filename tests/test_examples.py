"""The examples: every script runs; and the fine-tuning and the training configurations with full-size detectors.

No trained weights can be had here, and an untrained detector finds nothing that an audit could explain. So a file of
weights is written with which a detector is sure of what it sees, whatever that is, and its own detections are the
annotations of a few images: the audit must then find every one of them. The images are generated, and real ones of COCO
where they are.
"""

import ast
import importlib.util
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from detectron2.layers import FrozenBatchNorm2d
from helpers.runs import EVERY_TAG, read_events

from odsg_lightning import CocoDetectionDataModule, DetectionModule
from odsg_lightning.cli import main
from odsg_lightning.config_files import config_names, config_path
from odsg_lightning.demo.shapes import make_shapes

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

# Every script, at its smallest ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A tiny run of a script.

    Attributes:
        arguments: of the command line; generated data lie in ``shapes``.
        check: raises unless what it printed, and its folder, are as they should be.
        code: its exit code.
        runs: another script that it runs.
    """

    arguments: str
    check: Callable[[str, Path], None]
    code: int = 0
    runs: str = ""


def _fine_tuned(printed: str, folder: Path) -> None:
    assert "audit/recall" in printed
    assert list(folder.rglob("*.ckpt"))


def _refused(printed: str, folder: Path) -> None:
    assert "NOT COMPARABLE" in printed  # after one step nothing is detected
    assert (folder / "runs" / "shortcut" / "report.html").is_file()


def _differentiated(printed: str, folder: Path) -> None:
    for name in ("torchvision SSDlite320-MobileNetV3", "RF-DETR Nano"):
        assert re.search(rf"\| {name} \| yes \(\de-\d+\) \| autograd \| [\d.]+ \|", printed), name


def _faster(printed: str, folder: Path) -> None:
    assert re.search(
        r"\| SSDlite320-MobileNetV3 \(320x320\) \| [\d.]+ \| [\d.]+ \| [\d.]+ \(.*\) \| \de[-+]\d+ \|", printed
    )


def _power(printed: str, folder: Path) -> None:
    assert "1 of 1 pass" in printed


def _real_gate(printed: str, folder: Path) -> None:
    assert "1 steps, 1 audit images" in printed
    assert "margins of `odsg calibrate --retrained` from 3 clean detectors, shortcut: 12 not comparable" in printed


def _hidden(printed: str, folder: Path) -> None:
    assert "retinanet_tiny" in printed
    assert "%" in printed


def _settings(printed: str, folder: Path) -> None:
    assert re.search(r"│ \(defaults\) +│ +[\d.]+ │ +1.00 \(1.00 to 1.00\) │ +\d+ │", printed)
    assert re.search(r"│ tolerance=0.03 +│", printed)


def _trimmed(printed: str, folder: Path) -> None:
    assert re.search(r"clean-0 +│ 0.01 │", printed)
    assert "trim=0.01: 6 of 6 comparisons have the verdicts of exact audits" in printed


def _opened(printed: str, folder: Path) -> None:
    assert "MiB" in printed
    assert (folder / "page.html").stat().st_size > 1000


def _timed(printed: str, folder: Path) -> None:
    (case,) = json.loads((folder / "numbers.json").read_text())["cases"]
    assert case["variants"]["autograd"]["seconds"][0] > 0
    assert not case["variants"]["autograd"]["memory_mib"] <= 0  # not a number except on Linux


def _grown(printed: str, folder: Path) -> None:
    assert re.search(r"│\s+samples │\s+1 │\s+1 │\s+2 │\s+1 │\s+[\d.]+ │\s+[\d.]+ \(", printed)


def _share_of_training(printed: str, folder: Path) -> None:
    assert printed.count("demo retinanet, 1 steps") == 3
    assert printed.count("EXTRAPOLATED") == 4


def _compared(printed: str, folder: Path) -> None:
    assert "labels and boxes permuted: 1 detections in 1 images" in printed
    assert printed.count("distance alone") == 3
    assert (folder / "runs" / "labels" / "permuted.json").is_file()


def _centres(printed: str, folder: Path) -> None:
    assert "faster_rcnn_tiny" in printed
    assert (folder / "up.png").stat().st_size > 1000


SHAPES = " ".join(f"--{s}-annotations=shapes/annotations/{s}.json --{s}-images=shapes/{s}" for s in ("train", "val"))
FEW = "--images=1 --val-images=1"
SMALL = "--object-size=32 --objects=1"

RUNS = {
    "finetune_coco.py": Run(
        f"{SHAPES} --config=retinanet_tiny --max-steps=1 --validations=1 --batch-size=1 --image-size=64 "
        "--num-workers=0 --audit-images=1 --max-objects=1 --n-samples=2 --score-threshold=0",
        _fine_tuned,
    ),
    "label_randomisation.py": Run(
        "--detector=faster-rcnn --steps=1 --training-images=8 --images=1 --n-samples=1 --score-threshold=0", _compared
    ),
    "reproduction/up_left.py": Run("--config=faster_rcnn_tiny --projections=1 --output=up.png", _centres),
    "shortcut.py": Run(f"{FEW} --steps=1", _refused, code=3),
    "benchmarks/batched.py": Run("--only=SSDlite --size=64 --rounds=1 --objects=1", _faster),
    "benchmarks/detectors.py": Run("--only=SSDlite|RF-DETR --size=64 --rounds=1", _differentiated),
    "benchmarks/gate_power.py": Run("--images=2 --simulations=2 --repetitions=1", _power),
    "benchmarks/gate_real.py": Run(f"{FEW} --steps=1 --repetitions=1 --clean=4", _real_gate),
    "benchmarks/occlusion.py": Run("--quick --samples=1 --rounds=1", _hidden),
    "benchmarks/page.py": Run("--objects=3 --rounds=1 --keep=page.html", _opened),
    "benchmarks/saliency.py": Run(
        f"{SMALL} --detectors=retinanet_R_50_FPN --sizes=128x160 --variants=autograd --rounds=1 --reference-outputs=1 "
        "--output=numbers.json",
        _timed,
        runs="benchmarks/peak_memory.py",
    ),
    "benchmarks/scaling.py": Run("--images=1 --objects=1 --samples 1 2 --devices=1 --size=64 --rounds=1", _grown),
    "benchmarks/settings.py": Run(
        "--train-images=1 --val-images=1 --steps=1 --rounds=1 --score-threshold=0", _settings
    ),
    "benchmarks/trimmed.py": Run(
        "--train-images=1 --val-images=1 --images=1 --steps=1 --n-samples=1 --trim=0.01", _trimmed
    ),
    "benchmarks/training_overhead.py": Run(
        f"{FEW} {SMALL} --detectors=retinanet --steps=1 --audits=1 --sizes=128x160 --batch-size=1 --timed-steps=1 "
        "--timed-samples=1",
        _share_of_training,
    ),
}
STUDY = ("train", "occlude", "choose", "audits", "table")
RUN_BY_OTHER_TESTS = {
    "benchmarks/noise_samples.py": "test_noise_samples.py",
    "ci/audit_and_gate.sh": "test_ci_recipe.py",
    "reproduce_paper.py": "test_reproduction.py",
} | {f"studies/{script}.py": "test_studies.py" for script in STUDY}


@pytest.mark.slow
@pytest.mark.parametrize("script", RUNS)
def test_every_script_runs_at_its_smallest(script, tmp_path):
    run = RUNS[script]
    make_shapes(tmp_path / "shapes", n_train=1, n_val=1)
    command = [sys.executable, str(EXAMPLES / script), *run.arguments.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == run.code, done.stderr
    run.check(done.stdout, tmp_path)


def not_run(folder: Path, run: Set[str]) -> set[str]:
    """Return the scripts below a folder that are not among those that tests run.

    Every file of Python is one, unless it can only be imported, and a script that is run, beside it or in the folder
    above it, imports it.
    """
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.suffix in (".py", ".sh")}
    trees = {name: ast.parse(path.read_text()) for name, path in files.items() if path.suffix == ".py"}
    used, waiting = set(run), [name for name in run if name in trees]
    while waiting:
        name = waiting.pop()
        folders = {path for path in map(Path, trees) if Path(name).parent in (path.parent, path.parent.parent)}
        beside = {path.as_posix() for path in folders if path.stem in _imported(trees[name])}
        found = {one for one in beside & trees.keys() if not _can_be_run(trees[one])} - used
        used |= found
        waiting += found
    return files.keys() - used


def _imported(tree: ast.Module) -> set[str]:
    nodes = list(ast.walk(tree))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}


def _can_be_run(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in tree.body)


def test_no_script_is_left_out():
    by_others = {run.runs for run in RUNS.values() if run.runs}
    assert not_run(EXAMPLES, RUNS.keys() | by_others | RUN_BY_OTHER_TESTS.keys()) == set()
    assert all((EXAMPLES / script).is_file() for script in RUNS.keys() | by_others | RUN_BY_OTHER_TESTS.keys())
    for script, test in RUN_BY_OTHER_TESTS.items():
        assert Path(script).name in (Path(__file__).parent / test).read_text()


def test_a_script_that_is_added_is_noticed(tmp_path):
    for name, text in {
        "a.py": "import part",
        "part.py": "from deeper import x",
        "deeper.py": "x = 1",
        "guarded.py": "if __name__ == '__main__':\n    print()",
        "sub/plain.py": "print()",
        "sub/new.sh": "true",
        "picture.png": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert not_run(tmp_path, {"a.py"}) == {"guarded.py", "sub/plain.py", "sub/new.sh"}
    (tmp_path / "part.py").write_text("import guarded")
    assert not_run(tmp_path, {"a.py"}) == {"guarded.py", "deeper.py", "sub/plain.py", "sub/new.sh"}


# Full-size detectors --------------------------------------------------------------------------------------------------

N_IMAGES, N_OBJECTS = 2, 1
DETECTORS = ["retinanet_R_50_FPN", "faster_rcnn_R_50_FPN"]
SIZES = {"shapes": 96, "coco_tiny": 160}
"""Data sets, and at how many pixels a side their images are shown to the detector."""


def known_detectors(*detectors: str) -> pytest.MarkDecorator:
    """Give a test the fixture ``known`` of each detector, with generated images and with real ones."""
    real = {"coco_tiny": pytest.mark.coco}
    both = [
        pytest.param((name, data), id=f"{name}-{data}", marks=real.get(data, ()))
        for name in detectors
        for data in SIZES
    ]
    return pytest.mark.parametrize("known", both, indirect=True)


@dataclass(frozen=True)
class Known:
    """A detector, and validation images of which it knows every object.

    Attributes:
        name: of the training configuration.
        weights: of the detector.
        files: the annotation files and image folders, by the names of the data module's arguments.
        size: at which the images are shown.
    """

    name: str
    weights: Path
    files: dict[str, Path]
    size: int

    def data(self, prefix: str = "--data.") -> list[str]:
        return [f"{prefix}{name}={path}" for name, path in self.files.items()]


def _sure_of_itself(name: str, num_classes: int) -> DetectionModule:
    torch.manual_seed(0)
    module = DetectionModule(name, num_classes=num_classes).eval()
    with torch.no_grad():
        for layer, part in module.detector.named_modules():
            # At their initial scale of 1 the sixteen residual blocks blow the activations up by a factor of hundreds.
            if isinstance(part, FrozenBatchNorm2d) and layer.endswith("conv3.norm"):
                part.weight.fill_(0.2)
        if name.startswith("retinanet"):
            module.detector.head.cls_score.bias.view(-1, num_classes)[:, 0] = 1.0
        else:
            module.detector.roi_heads.box_predictor.cls_score.bias[0] = 6.0
    return module


def _annotate(module: DetectionModule, data: CocoDetectionDataModule, file: Path) -> None:
    """Write the first validation images with the highest scoring detections in place of the annotations."""
    content = json.loads(data.val_annotations.read_text())
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


@pytest.fixture(scope="module")
def known(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Known]:
    name, data_set = request.param
    folder = tmp_path_factory.mktemp(f"{name}-{data_set}")
    if data_set == "shapes":
        files = dict(vars(make_shapes(folder / "shapes", n_train=2, n_val=N_IMAGES)))
    else:
        root = request.getfixturevalue(data_set)
        files = {f"{split}_annotations": root / f"annotations/instances_{split}2017.json" for split in ("train", "val")}
        files |= {f"{split}_images": root / f"{split}2017" for split in ("train", "val")}
    data = CocoDetectionDataModule(**files, min_size_eval=SIZES[data_set])
    module = _sure_of_itself(name, data.num_classes)
    module.export_weights(folder / "model.pth")
    _annotate(module, data, folder / "val.json")
    yield Known(name, folder / "model.pth", files | {"val_annotations": folder / "val.json"}, SIZES[data_set])
    shutil.rmtree(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that is emptied at once: pytest keeps its own for a while, and a checkpoint takes 300 MB."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.fixture
def finetune_coco() -> Any:
    spec = importlib.util.spec_from_file_location("finetune_coco", EXAMPLES / "finetune_coco.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_training_configuration_is_tested_here():
    assert sorted(f"training/{name}" for name in DETECTORS) == config_names("training")


@pytest.mark.slow
@known_detectors(*DETECTORS)
def test_the_configuration_as_it_is_runs(known, folder, monkeypatch):
    monkeypatch.chdir(folder)  # it logs below the current folder
    arguments = [f"--data.min_size={known.size}", f"--data.min_size_eval={known.size}", "--data.num_workers=0"]
    arguments += ["--trainer.accelerator=cpu"]
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
    values["data"].update(min_size=[known.size], min_size_eval=known.size, num_workers=0, audit_images=N_IMAGES)
    values["model"]["weights"] = str(known.weights)
    path = folder / "quick.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def _check_audit(values: dict[str, float]) -> None:
    assert values["audit/n_failed"] == 0
    assert values["audit/n_objects"] == N_IMAGES * N_OBJECTS
    assert values["audit/recall"] == 1
    assert values["audit/match_rate"] > 0
    assert values["audit/n_undefined"] < N_IMAGES * N_OBJECTS * 5
    assert 0 < values["iof/object"] <= 1
    assert 0 < values["val/map_50"] <= 1


@pytest.mark.slow
@known_detectors(*DETECTORS)
def test_the_configuration_trains_and_audits(known, folder):
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


ARGUMENTS = ["--max-steps=2", "--validations=1", "--num-workers=0", "--n-samples=1"]


def example_arguments(known: Known, folder: Path) -> list[str]:
    data = [argument.replace("_", "-", 1) for argument in known.data("--")]
    return [*data, "--config", known.name, f"--output={folder}", f"--image-size={known.size}", *ARGUMENTS]


@pytest.mark.slow
@known_detectors("retinanet_R_50_FPN")
def test_the_example_fine_tunes_and_audits(known, finetune_coco, folder, capsys):
    arguments = ["--weights", str(known.weights), "--learning-rate=1e-6", "--score-threshold=0"]
    metrics = finetune_coco.main([*example_arguments(known, folder), *arguments])
    _check_audit(metrics)
    assert read_events(folder).Scalars("audit/recall")[-1].value == metrics["audit/recall"]
    printed = capsys.readouterr().out
    assert "iof/object " in printed
    assert f"tensorboard --logdir {folder} --samples_per_plugin images=200" in printed
    (checkpoint,) = folder.rglob("*.ckpt")
    assert str(checkpoint) in printed


@pytest.mark.slow
@known_detectors("faster_rcnn_R_50_FPN")
def test_without_weights_the_audit_says_that_nothing_is_found(known, finetune_coco, folder):
    metrics = finetune_coco.main([*example_arguments(known, folder), "--audit-images=1"])
    assert math.isfinite(metrics["train/loss"])
    assert metrics["audit/recall"] == 0
    assert metrics["audit/n_failed"] == 0
    assert metrics["audit/n_objects"] == N_OBJECTS
    assert math.isnan(metrics["iof/object"])
