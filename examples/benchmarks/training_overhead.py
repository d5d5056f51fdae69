r"""Which share of a training run goes into auditing it: at the demonstration's size, and at full size.

    python examples/benchmarks/training_overhead.py --quick     # a few minutes
    python examples/benchmarks/training_overhead.py

The demonstration's runs are real ones, with and without the audit, and bring the same weights. At full size a few real
training steps and one real audit of one picture are measured, and the rest is EXTRAPOLATED: see the table.
"""

import argparse
import logging
import tempfile
import warnings
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from measuring import clock, machine, prepare
from planted import Planted, box_sample, plant
from report import note
from rich.console import Console
from rich.table import Table

from odsg_lightning import ODSmoothGradCallback
from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.isolation import isolated
from odsg_lightning.audit.loop import audit
from odsg_lightning.demo.recipe import RECIPES, DetectorName, demo_data, demo_detector
from odsg_lightning.demo.shapes import make_shapes
from odsg_lightning.detectors.detectron2 import Detectron2Adapter
from odsg_lightning.detectors.detectron2_names import EventStorage
from odsg_lightning.training.detectron2_batch import training_inputs

ENGINES = ("auto", "autograd")
_IMAGES, _SAMPLES = 16, 20  # of an audit, the defaults of the data module and of the callback
_EVERY = (500, 2000)  # training steps between two audits


def main(args: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print the table, and return its rows."""
    options = _parse(args)
    prepare(options.threads, options.device)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for detector, engine in product(options.detectors, (None, *ENGINES)):
            note(f"demonstration, {detector}, {options.steps or RECIPES[detector][1]} steps, audit: {engine or 'none'}")
            rows.append(_demo_run(Path(folder), detector, options, engine))
    for size in [] if options.no_full_size else options.sizes:
        rows += _full_size(size, options)
    table = Table(title=f"Share of a training run spent auditing ({machine(options.device)})")
    for name in ("run", "audit engine", "training s", "auditing s", "share", "explained", "how"):
        table.add_column(name, justify="left" if name in ("run", "audit engine", "how") else "right")
    for row in rows:
        share = row["auditing"] / (row["auditing"] + row["training"])
        table.add_row(
            row["run"],
            row["engine"] or "(not audited)",
            f"{row['training']:.0f}",
            f"{row['auditing']:.0f}" if row["engine"] else "",
            f"{share:.1%}" if row["engine"] else "",
            row["explained"],
            row["how"],
        )
    Console(width=150, highlight=False).print(table)
    return rows


def _demo_run(folder: Path, detector: DetectorName, options: argparse.Namespace, engine: str | None) -> dict[str, Any]:
    """Fit a detector of the demonstration as ``odsg demo`` does, but for the steps, and with 20 noise samples."""
    steps = options.steps or RECIPES[detector][1]
    seed_everything(0, verbose=False)
    shapes = make_shapes(folder / "shapes", n_train=options.images, n_val=options.val_images)
    module, data = demo_detector(detector, steps), demo_data(shapes)
    audited = {"score_threshold": options.score_threshold, "max_strips": 0, "on_error": "raise"}
    callback = ODSmoothGradCallback(engine=engine, **audited) if engine else None
    trainer = Trainer(
        accelerator="gpu" if options.device == "cuda" else "cpu",
        devices=1,
        max_steps=steps,
        val_check_interval=max(1, steps // options.audits),
        check_val_every_n_epoch=None,
        gradient_clip_val=5.0,
        logger=False,
        callbacks=[callback] if callback else [],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = clock(options.device)
        trainer.fit(module, datamodule=data)
        seconds = clock(options.device) - start
    auditing = callback.seconds if callback else 0.0
    explained = ""
    if callback:
        recall, objects = (float(trainer.callback_metrics[f"audit/{name}"]) for name in ("recall", "n_objects"))
        explained = f"{recall * objects:.0f} of {objects:.0f}"
    images = min(_IMAGES, options.val_images)
    return {
        "run": f"demo {detector}, {steps} steps",
        "engine": engine,
        "training": seconds - auditing,
        "auditing": auditing,
        "explained": explained,
        "how": f"measured, {options.audits} audits of {images} x {_SAMPLES}; explained: the last one's",
    }


def _full_size(size: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure training steps and one audited picture of a full-size detector, and extrapolate both."""
    height, width = map(int, size.split("x"))
    note(f"{options.full_detector} {size}: planting {options.objects} objects")
    planted = plant(options.full_detector, height, width, options.objects, options.object_size)
    audits = {engine: _one_picture(planted, engine, options) for engine in ENGINES}
    step = _training_step(planted, options)  # last: it changes the weights
    return [
        {
            "run": f"{options.full_detector} {size}, {every} steps of {options.batch_size} images",
            "engine": engine,
            "training": every * step,
            "auditing": _IMAGES * audits[engine],
            "explained": f"{options.objects} / image",
            "how": f"EXTRAPOLATED from {options.timed_steps} steps, {options.timed_samples} samples of one image",
        }
        for every in _EVERY
        for engine in ENGINES
    ]


def _one_picture(planted: Planted, engine: str, options: argparse.Namespace) -> float:
    """Return the seconds that an audit needs for one picture: the clean image and 20 noise samples."""
    model, boxes = planted.model.to(options.device), planted.boxes.cpu()
    sample = box_sample(planted.image, boxes, torch.arange(len(boxes)))
    seconds = []
    for n_samples in (1, 1, 1 + options.timed_samples):  # the first one warms up
        note(f"  audit of one picture, engine {engine}, {n_samples} samples")
        config = AuditConfig(n_samples=n_samples, score_threshold=0.5, engine=engine)
        start = clock(options.device)
        with isolated(model):
            for found in audit(Detectron2Adapter(model), [sample], config, device=options.device):
                if found.missed:
                    raise RuntimeError("Expected the audit to find every planted object. Try another seed.")
        seconds.append(clock(options.device) - start)
    return seconds[1] + (seconds[2] - seconds[1]) / options.timed_samples * (_SAMPLES - 1)


def _training_step(planted: Planted, options: argparse.Namespace) -> float:
    """Return the seconds of a training step, all but the stem and the first stage being trained (FREEZE_AT 2)."""
    model = planted.model.to(options.device).train()
    frozen = ("backbone.bottom_up.stem", "backbone.bottom_up.res2")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-5, momentum=0.9)
    sample = {
        "image": planted.image,
        "boxes": planted.boxes.to(options.device),
        "labels": torch.arange(len(planted.boxes), device=options.device),
    }
    seconds = []
    with EventStorage():
        for number in range(1 + options.timed_steps):  # the first one warms up
            start = clock(options.device)
            losses = model(training_inputs([sample] * options.batch_size, model.input_format))
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            seconds.append(clock(options.device) - start)
            note(f"  training step {number}: {seconds[-1]:.1f} s")
    return median(seconds[1:])


def _parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter runs, 320x320, fewer measurements")
    parser.add_argument("--detectors", nargs="+", choices=sorted(RECIPES), help="of the demonstration (both)")
    parser.add_argument("--steps", type=int, help="of the demonstration (as many as it has; --quick: 240)")
    parser.add_argument("--audits", type=int, help="of the demonstration (6, as it has; --quick: 2)")
    parser.add_argument(
        "--score-threshold",
        type=float,
        help="of the demonstration's audits (0.5; --quick: 0.3, as a short run is not sure of much)",
    )
    parser.add_argument("--images", type=int, default=1000, help="training images of the demonstration")
    parser.add_argument("--val-images", type=int, default=100, help="its validation images, of which 16 are audited")
    parser.add_argument("--full-detector", default="retinanet_R_50_FPN", help="a name from configs/detectors")
    parser.add_argument("--sizes", nargs="+", help="height x width at full size (480x640, 800x1344; --quick: 320x320)")
    parser.add_argument("--objects", type=int, help="audited objects per picture at full size (5; --quick: 2)")
    parser.add_argument("--object-size", type=int, default=96, help="their sides in pixels")
    parser.add_argument("--batch-size", type=int, default=2, help="pictures of a training step at full size")
    parser.add_argument("--timed-steps", type=int, help="training steps measured at full size (3; --quick: 1)")
    parser.add_argument("--timed-samples", type=int, help="noise samples measured at full size (2; --quick: 1)")
    parser.add_argument("--no-full-size", action="store_true", help="the demonstration alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args(args)
    names = ("detectors", "steps", "audits", "score_threshold", "sizes", "objects", "timed_steps", "timed_samples")
    quick = (["retinanet"], 240, 2, 0.3, ["320x320"], 2, 1, 1)
    full = (["retinanet", "faster-rcnn"], None, 6, 0.5, ["480x640", "800x1344"], 5, 3, 2)
    for name, value in zip(names, quick if options.quick else full, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


if __name__ == "__main__":
    main()
