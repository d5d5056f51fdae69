r"""Fine-tune a Detectron2 detector on any data in COCO format, and audit at every validation what it looks at.

    python examples/finetune_coco.py \
        --train-annotations data/annotations/train.json --train-images data/train \
        --val-annotations data/annotations/val.json --val-images data/val \
        --weights detectron2://COCO-Detection/retinanet_R_50_FPN_3x/190397829/model_final_5bd44e.pkl

``odsg fit --config retinanet_R_50_FPN`` does the same from a YAML file. Here is the Python to build on.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from odsg_lightning import CocoDetectionDataModule, DetectionModule, ODSmoothGradCallback


def main(args: Sequence[str] | None = None) -> dict[str, float]:
    """Fine-tune, audit and return the last value of every metric."""
    options = _parse(args)
    seed_everything(options.seed, workers=True)

    data = CocoDetectionDataModule(
        options.train_annotations,
        options.train_images,
        options.val_annotations,
        options.val_images,
        batch_size=options.batch_size,
        min_size=options.image_size,
        min_size_eval=options.image_size,
        num_workers=options.num_workers,
        audit_images=options.audit_images,
    )
    schedule = {  # Detectron2's, for the length of this run
        "SOLVER.BASE_LR": options.learning_rate,
        "SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR",
        "SOLVER.MAX_ITER": options.max_steps,
        "SOLVER.WARMUP_ITERS": options.max_steps // 10,
    }
    module = DetectionModule(options.config, schedule, num_classes="auto", weights=options.weights)
    audit = ODSmoothGradCallback(
        n_samples=options.n_samples, score_threshold=options.score_threshold, max_objects_per_image=options.max_objects
    )
    best = ModelCheckpoint(monitor="val/map", mode="max", filename="step_{step}", auto_insert_metric_name=False)
    logger = TensorBoardLogger(options.output, name=Path(options.config).stem, default_hp_metric=False)
    trainer = Trainer(
        max_steps=options.max_steps,
        val_check_interval=max(1, options.max_steps // options.validations),
        check_val_every_n_epoch=None,  # count steps, not epochs: a small data set has many short ones
        gradient_clip_val=10.0,
        logger=logger,
        callbacks=[audit, best, LearningRateMonitor()],
    )
    trainer.fit(module, datamodule=data)

    metrics = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
    for name, value in metrics.items():
        print(f"{name:28} {value:.4f}")  # nan: nothing was detected, so there was nothing to explain
    print(f"Best checkpoint: {best.best_model_path}")
    print(f"Curves and maps: tensorboard --logdir {options.output} --samples_per_plugin images=200")
    return metrics


def _parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Fine-tune and audit a detector.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    for split in ("train", "val"):
        parser.add_argument(f"--{split}-annotations", type=Path, required=True, help="COCO JSON file")
        parser.add_argument(f"--{split}-images", type=Path, required=True, help="folder of its images")
    parser.add_argument("--config", default="retinanet_R_50_FPN", help="name from configs/detectors, or a YAML file")
    parser.add_argument("--weights", help="to start from: .pkl of Detectron2's model zoo, or .pth; random without")
    parser.add_argument("--max-steps", type=int, default=5000, help="optimizer steps")
    parser.add_argument("--validations", type=int, default=10, help="validations, and audits, in the run")
    parser.add_argument("--batch-size", type=int, default=2, help="images per step")
    parser.add_argument("--learning-rate", type=float, default=0.00125, help="in proportion to the batch size")
    parser.add_argument("--image-size", type=int, default=800, help="shorter edge in pixels")
    parser.add_argument("--num-workers", type=int, default=4, help="processes that load images")
    parser.add_argument("--audit-images", type=int, default=16, help="images that are audited")
    parser.add_argument("--max-objects", type=int, default=5, help="objects audited per image")
    parser.add_argument("--n-samples", type=int, default=20, help="noise samples of SmoothGrad")
    parser.add_argument("--score-threshold", type=float, default=0.5, help="least score of an explained detection")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation")
    parser.add_argument("--output", type=Path, default=Path("runs"), help="folder for logs and checkpoints")
    return parser.parse_args(args)


if __name__ == "__main__":
    main()
