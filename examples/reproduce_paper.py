"""The experiment of Gwon & Howell (2023) again: does a box coordinate look at its own edge of the object?

    python examples/reproduce_paper.py --quick      # a few minutes: generated shapes, two tiny detectors, few pictures
    python examples/reproduce_paper.py              # under an hour on 2 cores: three trainings of each
    python examples/reproduce_paper.py --images val2017 --annotations instances_val2017.json \
        --checkpoint model_final.pkl --config COCO-Detection/retinanet_R_101_FPN_3x.yaml      # the paper's own

Prints the tables, and writes them with the figures into --output. What is there already is not computed again: stop it
whenever you like, and run it again to go on. docs/reproduction.md says what is compared, and what came of it.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent / "reproduction"))

from explaining import Work, explain_missing
from pictures import Pictures, Selection, choose
from report import write_report
from results import read_results
from settings import keep_settings
from torch import nn
from training import trained

from odsg_lightning import DetectionModule
from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.checkpoints.detector import load_detector
from odsg_lightning.demo.recipe import RECIPES
from odsg_lightning.demo.shapes import make_shapes
from odsg_lightning.detectors.build import class_count
from odsg_lightning.errors import OdsgError, UserInputError
from odsg_lightning.files import make_folder, sha256_of

_VALIDATION_IMAGES = 400


def main(args: Sequence[str] | None = None) -> int:
    """Train, explain, measure and judge; return 0 whatever the verdicts are."""
    options = _parse(args)
    started = time.time()
    if options.devices > 1 or options.shapes:
        torch.set_num_threads(1)
    make_folder(options.output)
    keep_settings(options.output / "settings.json", _settings(options))
    groups, detectors, pictures = _shapes(options) if options.shapes else _own(options)
    work = Work(
        detectors, pictures, options.output, options.samples,
        AuditConfig(score_threshold=options.score_threshold), options.keep_maps,
    )  # fmt: skip
    explain_missing(work, options.accelerator, options.devices, started + 60 * options.minutes)
    results = [read_results(options.output / "values", name, trainings) for name, trainings in groups.items()]
    head = [
        *options.said,
        f"Smoothed: {options.samples} noisy copies. {(time.time() - started) / 60:.0f} minutes in this run.",
    ]
    left, planned = len(work.missing()), len(pictures.objects) * len(detectors)
    if left:
        head.append(
            f"Not finished: {planned - left} of {planned} pictures, each detector's counted. Run it again to go on."
        )
    print(write_report(results, work, head))
    print(f"The same with figures: {options.output / 'results.md'}")
    return 0


def _shapes(options: argparse.Namespace) -> tuple[dict[str, list[str]], dict[str, nn.Module], Pictures]:
    """Train what is not trained yet, on images that are not explained."""
    n_val = max(_VALIDATION_IMAGES, options.pictures)
    shapes = make_shapes(options.output / "shapes", n_train=options.training_images, n_val=n_val)
    checkpoints = trained(
        list(RECIPES), options.seeds, shapes, options.output / "checkpoints", options.steps, options.devices
    )
    detectors = {
        name: DetectionModule.load_from_checkpoint(file, map_location="cpu") for name, file in checkpoints.items()
    }
    pictures = choose(shapes.val_annotations, shapes.val_images, (128, 128), _selection(options))
    groups = {name: [f"{name}-{seed}" for seed in options.seeds] for name in RECIPES}
    options.said = [
        f"Generated shapes of 128 px; both tiny detectors, trained {len(options.seeds)} times each from other random "
        "weights. The explained pictures are none of those that they learned from."
    ]
    return groups, dict(detectors), pictures


def _own(options: argparse.Namespace) -> tuple[dict[str, list[str]], dict[str, nn.Module], Pictures]:
    """Load the detectors of the command line."""
    detectors: dict[str, nn.Module] = {}
    options.said = []
    configs = options.config or [None] * len(options.checkpoint)
    for checkpoint, config in zip(options.checkpoint, configs, strict=True):
        detector = load_detector(checkpoint, config)
        detectors[f"{type(detector.detector).__name__}-{len(detectors) + 1}"] = detector
        options.said.append(f"{list(detectors)[-1]} is {checkpoint.name}. {_whose(detector.cfg)}")
    sizes = next(iter(detectors.values())).cfg.INPUT
    pictures = choose(
        options.annotations, options.images, (int(sizes.MIN_SIZE_TEST), int(sizes.MAX_SIZE_TEST)), _selection(options)
    )
    for name, detector in detectors.items():
        known, listed = class_count(detector.cfg), len(pictures.coco.category_ids)
        if known != listed:
            raise UserInputError(
                f"Expected {options.annotations} to list the {known} classes of {name}, but it lists {listed}."
            )
    return {name: [name] for name in detectors}, detectors, pictures


def _whose(cfg: Any) -> str:
    """Say what the weights have to do with the paper's."""
    if cfg.MODEL.RESNETS.DEPTH == 101 and class_count(cfg) == 80 and "fpn" in cfg.MODEL.BACKBONE.NAME:
        return "It is built as the paper's, R-101-FPN of 80 classes; only you know whether these are the zoo's weights."
    return "These are not the paper's weights, which are R-101-FPN of Detectron2's model zoo."


def _selection(options: argparse.Namespace) -> Selection:
    if options.shapes:
        return Selection(options.pictures)
    return Selection(options.pictures, options.classes, objects_per_image=2, min_area=32**2, seed=options.seed)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the results depend on, besides the code."""
    settings: dict[str, Any] = {"selection": asdict(_selection(options))}
    settings |= {"samples": options.samples, "score_threshold": options.score_threshold}
    if options.shapes:
        return settings | {name: getattr(options, name) for name in ("seeds", "steps", "training_images")}
    files = {"annotations": options.annotations} | {f"checkpoint {i}": p for i, p in enumerate(options.checkpoint, 1)}
    hashes = {name: sha256_of(path) if path.is_file() else "missing" for name, path in files.items()}
    return settings | hashes | {"config": [str(config) for config in options.config or []]}


def _parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder for everything (runs/reproduction, -quick, -own)")
    parser.add_argument("--quick", action="store_true", help="one training of each detector, 24 pictures")
    parser.add_argument("--minutes", type=float, help="begin no picture after so many (55 on all the shapes)")
    parser.add_argument("--accelerator", default="cpu", help="as Lightning's Trainer takes it: cpu, gpu")
    parser.add_argument("--devices", type=int, default=min(2, os.cpu_count() or 1), help="processes that explain")
    parser.add_argument("--samples", type=int, default=20, help="noisy copies")
    parser.add_argument("--pictures", type=int, help="at most so many (default 260, with --images 400)")
    own = parser.add_argument_group("pictures and detectors of your own")
    own.add_argument("--images", type=Path, help="folder")
    own.add_argument("--annotations", type=Path, help="COCO JSON with segmentations")
    own.add_argument("--checkpoint", type=Path, nargs="+", help="Lightning's .ckpt, or Detectron2's .pth or .pkl")
    own.add_argument(
        "--config", nargs="+", help="of each Detectron2 checkpoint: a YAML file, or a name of the model zoo"
    )
    own.add_argument("--classes", type=int, default=10, help="so many, chosen by --seed")
    own.add_argument("--seed", type=int, default=0, help="of the choice of classes, pictures and objects")
    own.add_argument("--score-threshold", type=float, help="a detection scores above this (default 0.9; shapes 0.5)")
    own.add_argument("--keep-maps", type=int, default=12, help="of so many pictures: up to 100 MB for an object")
    tiny = parser.add_argument_group("the tiny detectors")
    tiny.add_argument("--seeds", type=int, nargs="+", help="of the trainings (default 0 1 2)")
    tiny.add_argument("--steps", type=int, help="of every training, to try the script")
    tiny.add_argument("--training-images", type=int, default=1000)
    options = parser.parse_args(args)
    if options.samples < 2 or options.samples % 2 or options.devices < 1 or (options.pictures or 1) < 1:
        parser.error("--samples must be even, and --samples, --devices and --pictures above 0")
    given = [options.images, options.annotations, options.checkpoint]
    options.shapes = not any(given)
    if not options.shapes and not all(given):
        parser.error("--images, --annotations and --checkpoint go together")
    if options.config and len(options.config) != len(options.checkpoint or []):
        parser.error("--config needs one value for each --checkpoint")
    quick = options.quick
    defaults = {
        "output": Path("runs/reproduction" + ("-quick" if quick else "" if options.shapes else "-own")),
        "minutes": 55.0 if options.shapes and not quick else float("inf"),
        "pictures": 24 if quick else 260 if options.shapes else 400,
        "seeds": [0] if quick else [0, 1, 2],
        "score_threshold": 0.5 if options.shapes else 0.9,
    }
    if options.shapes:
        options.keep_maps = options.pictures or defaults["pictures"]
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OdsgError as error:
        sys.exit(f"error: {error}")
