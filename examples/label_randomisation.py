"""Do SmoothGrad's maps come from what a detector learned, or would any training give them?

    python examples/label_randomisation.py --trained runs/demo/retinanet/version_0/checkpoints/7-900.ckpt

Label randomisation (Adebayo et al., 2018): trains the demonstration's detector on the same images with labels AND boxes
permuted, and compares the maps of both at the anchors, or regions, of what the first detects. 5 minutes on 2 cores, and
without ``--trained`` 10. ``docs/sanity.md`` tells what comes of it.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lightning.pytorch import Trainer, seed_everything
from rich.console import Console

from odsg_lightning import DetectionModule
from odsg_lightning.checkpoints.detector import load_detector
from odsg_lightning.demo.recipe import RECIPES, DetectorName, demo_data, demo_detector, no_foreign_warnings
from odsg_lightning.demo.shapes import ShapesDataset, make_shapes
from odsg_lightning.explainers.smoothgrad import SmoothGrad
from odsg_lightning.sanity.check import label_randomisation
from odsg_lightning.sanity.labels import permuted
from odsg_lightning.sanity.outputs import sanity_table


def main(args: Sequence[str] | None = None) -> None:
    """Train on permuted annotations, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", type=Path, help="checkpoint of the same detector (default: train it first)")
    parser.add_argument("--detector", choices=sorted(RECIPES), default="retinanet")
    parser.add_argument("--output", type=Path, default=Path("runs/labels"))
    parser.add_argument("--steps", type=int, help="of a training (default: as many as the demonstration's)")
    parser.add_argument("--training-images", type=int, default=1000)
    parser.add_argument("--images", type=int, default=16, help="whose detections are compared")
    parser.add_argument("--n-samples", type=int, default=20, help="noisy copies of SmoothGrad")
    parser.add_argument("--score-threshold", type=float, default=0.5)
    options = parser.parse_args(args)

    shapes = make_shapes(options.output / "shapes", n_train=options.training_images)
    steps = options.steps or RECIPES[options.detector][1]
    honest = load_detector(options.trained) if options.trained else train(options.detector, shapes, steps)
    annotations = options.output / "permuted.json"
    content = json.loads(shapes.train_annotations.read_text(encoding="utf-8"))
    annotations.write_text(json.dumps(permuted(content, seed=0)), encoding="utf-8")
    misled = train(options.detector, replace(shapes, train_annotations=annotations), steps)

    samples = demo_data(shapes).audit_samples()[: options.images]
    explainer, threshold = SmoothGrad(n_samples=options.n_samples), options.score_threshold
    check = label_randomisation(honest, misled, samples, explainer, score_threshold=threshold, max_objects=1)
    title = f"labels and boxes permuted: {check.n_objects} detections in {check.n_images} images"
    Console().print(sanity_table(check, title) if check.stages else "Nothing was detected.")


def train(detector: DetectorName, shapes: ShapesDataset, steps: int) -> DetectionModule:
    """Train one of the demonstration's detectors, the same way for the same annotations."""
    seed_everything(0, verbose=False)
    module = demo_detector(detector, steps)
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=steps, limit_val_batches=0, gradient_clip_val=5.0,
        logger=False, enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    with no_foreign_warnings():
        trainer.fit(module, datamodule=demo_data(shapes))
    return module


if __name__ == "__main__":
    main()
