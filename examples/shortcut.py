"""Refuse a detector that is right for the wrong reason: `odsg demo --shortcut` as a script to build on.

    python examples/shortcut.py --output runs/shortcut

Two detectors learn the same shapes. The images of one have annotation frames around every object; those of the other
have as many, but place and colour tell nothing. On validation images with frames at the objects AP50 prefers the first.
With all but an object hidden it detects nothing, and with the object hidden it detects it still: the gate refuses it.
Put your own COCO files, and your own suspicion, in place of the generated ones.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from lightning.pytorch import Trainer, seed_everything

from odsg_lightning import CocoDetectionDataModule, DetectionModule
from odsg_lightning.checkpoints.audit import audit_checkpoint
from odsg_lightning.data.audit_set_choice import choose_audit_set
from odsg_lightning.demo.shapes import ShapesDataset, make_shapes
from odsg_lightning.files import write_text
from odsg_lightning.gate import compare_files
from odsg_lightning.gate.outputs.terminal import print_result
from odsg_lightning.records.audit_set import write_audit_set
from odsg_lightning.records.baseline import accept_baseline
from odsg_lightning.records.means import audit_means
from odsg_lightning.report.audits import read_audits
from odsg_lightning.report.page import build_page
from odsg_lightning.text import number

SHOWN = ("occlusion/sufficiency", "occlusion/necessity", "iof/near", "iof/object")


def main(args: Sequence[str] | None = None) -> int:
    """Train, audit and compare; return the gate's exit code: 1 if the shortcut was refused."""
    options = _parse(args)
    output: Path = options.output
    counts = {"n_train": options.images, "n_val": options.val_images}
    shortcut = make_shapes(output / "data" / "at_boxes", frames="at_boxes", **counts)
    clean = make_shapes(output / "data" / "anywhere", frames="anywhere", **counts)
    # Both are validated on what the team has: images with frames at the objects.
    clean = replace(clean, val_annotations=shortcut.val_annotations, val_images=shortcut.val_images)

    audit_set = output / "audit_set.json"
    chosen, _ = choose_audit_set(shortcut.val_annotations, shortcut.val_images, count=24, min_size=128)
    write_audit_set(chosen, audit_set)
    for name, data in (("clean", clean), ("shortcut", shortcut)):
        ap50 = train(data, output / f"{name}.ckpt", options.steps)
        record = audit_checkpoint(output / f"{name}.ckpt", audit_set, output / f"{name}.json")
        means = audit_means(record.objects)  # None where nothing was detected
        evidence = ", ".join(f"{measure} {number(means[measure])}" for measure in SHOWN)
        print(f"{name}: AP50 {ap50:.3f}, {evidence}")

    baseline, candidate = output / "baseline.json", output / "shortcut.json"
    accept_baseline(output / "clean.json", baseline, reason="Stands on the shapes, and falls without them.")
    result = compare_files(baseline, candidate)
    print_result(result)
    write_text(output / "report.html", build_page(read_audits([baseline, candidate])))
    print(f"Report: {output / 'report.html'}")
    return result.exit_code()


def train(data: ShapesDataset, checkpoint: Path, steps: int) -> float:
    """Train a tiny RetinaNet, write its checkpoint, and return its AP50 on the validation images."""
    seed_everything(0)
    datamodule = CocoDetectionDataModule(
        data.train_annotations,
        data.train_images,
        data.val_annotations,
        data.val_images,
        batch_size=8,
        min_size=128,
        min_size_eval=128,
        num_workers=0,
    )
    module = DetectionModule(
        "retinanet_tiny",
        num_classes="auto",
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=2e-3),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 2e-3, total_steps=steps, pct_start=0.15
        ),
    )
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", gradient_clip_val=5.0, logger=False, enable_checkpointing=False
    )
    trainer.fit(module, datamodule)
    trainer.save_checkpoint(checkpoint)
    (metrics,) = trainer.validate(module, datamodule, verbose=False)
    return float(metrics["val/map_50"])


def _parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/shortcut"), help="folder for everything")
    parser.add_argument("--steps", type=int, default=900, help="optimizer steps of each training")
    parser.add_argument("--images", type=int, default=1000, help="training images")
    parser.add_argument("--val-images", type=int, default=100, help="validation images, of which 24 are audited")
    return parser.parse_args(args)


if __name__ == "__main__":
    raise SystemExit(main())
