"""Train the study's detectors: what is there already is left alone, so it can be stopped and started again.

    python examples/studies/train.py --data shapes &
    python examples/studies/train.py --data photos --bccd <folder of the blood cells> &

Each takes one core. A detector takes two minutes (shapes) or nine (photographs); the whole about three hours of one
core.
"""

import logging
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from detectors import PLAN, Trained
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from pictures import options
from scenes import write_training

from odsg_lightning import CocoDetectionDataModule, DetectionModule
from odsg_lightning.demo.recipe import no_foreign_warnings

_PHOTO_ANCHORS = "[[16, 24], [40, 56], [80, 112]]"
_LIMIT = {"shapes": (128, 128), "photos": (240, 320)}


class _Keep(Callback):
    """Keeps a checkpoint after some steps."""

    def __init__(self, detector: Trained, folder: Path) -> None:
        self.detector, self.folder = detector, folder

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        if trainer.global_step in self.detector.saved:
            trainer.save_checkpoint(self.folder / f"{self.detector.name}@{trainer.global_step}.ckpt", weights_only=True)


def train(detector: Trained, output: Path, bccd: Path, count: int) -> None:
    """Train one detector and write its checkpoints, the last one last."""
    parts = detector.data, detector.cue, detector.share, detector.data_seed
    folder = write_training(output / "data", *parts, bccd, count)
    size, most = _LIMIT[detector.data]
    data = CocoDetectionDataModule(
        folder / "coco.json", folder / "images", folder / "coco.json", folder / "images",
        batch_size=8, min_size=size, min_size_eval=size, max_size=most, num_workers=0, check_images=False,
    )  # fmt: skip
    rate = 1e-3 if detector.start else 2e-3
    photos = ["MODEL.ANCHOR_GENERATOR.SIZES", _PHOTO_ANCHORS, "TEST.DETECTIONS_PER_IMAGE", "60"]
    seed_everything(detector.seed, verbose=False)
    module = DetectionModule(
        f"{detector.architecture}_tiny",
        photos if detector.data == "photos" else None,
        num_classes=3,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-4),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rate, total_steps=detector.steps, pct_start=0.15
        ),
    )
    checkpoints = output / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    if detector.start:
        start = torch.load(checkpoints / f"{detector.start}.ckpt", weights_only=True)
        module.load_state_dict(start["state_dict"])
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=detector.steps, limit_val_batches=0, gradient_clip_val=5.0,
        logger=False, enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False,
        callbacks=[_Keep(detector, checkpoints)],
    )  # fmt: skip
    with no_foreign_warnings():
        trainer.fit(module, datamodule=data)
    unfinished = checkpoints / f".{detector.name}.ckpt"
    trainer.save_checkpoint(unfinished, weights_only=True)
    os.replace(unfinished, checkpoints / f"{detector.name}.ckpt")


def main(args: Sequence[str] | None = None) -> None:
    """Train what is missing."""
    parser = options(__doc__)
    parser.add_argument("--only", nargs="*", help="names of detectors")
    parser.add_argument("--steps", type=int, help="of every training, to try the script")
    parser.add_argument("--training-images", type=int, default=1000, help="of shapes")
    arguments = parser.parse_args(args)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for name, detector in PLAN.items():
        asked = detector.data == arguments.data and (not arguments.only or name in arguments.only)
        if asked and not (arguments.output / "checkpoints" / f"{name}.ckpt").exists():
            started = time.monotonic()
            detector = detector if arguments.steps is None else replace(detector, steps=arguments.steps)
            train(detector, arguments.output, arguments.bccd, arguments.training_images)
            print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
