"""Short real training runs on the generated shapes."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from odsg_lightning import CocoDetectionDataModule, DetectionModule, ODSmoothGradCallback
from odsg_lightning.demo.shapes import make_shapes

EVERY_TAG = {
    *(f"iof/{p}/{r}" for p in ("x_min", "y_min", "x_max", "y_max") for r in ("edge", "middle", "opposite", "object")),
    *(f"iof/{p}/near" for p in ("x_min", "y_min", "x_max", "y_max", "score")),
    *("iof/score/object", "iof/object", "iof/near", "iof/edge", "iof/middle", "iof/opposite"),
    *("maps/area_ratio", "maps/relevance_mass", "maps/pointing_game"),
    *(f"enrichment/{p}/{r}" for p in ("x_min", "y_min", "x_max", "y_max") for r in ("edge", "middle", "opposite")),
    *("enrichment/edge", "enrichment/middle", "enrichment/opposite"),
    *(f"position/{name}" for name in ("x_min", "y_min", "x_max", "y_max", "mean")),
    *("occlusion/sufficiency", "occlusion/necessity"),
    *(f"audit/{name}" for name in ("recall", "n_objects", "defined", "n_undefined", "match_rate")),
    "audit/samples_per_object",
    *("audit/seconds", "audit/n_failed"),
    *(
        f"{kind}/{name}"
        for kind in ("drift", "drift_ref", "drift_noise")
        for name in (
            *(
                f"{p}/{m}"
                for p in ("x_min", "y_min", "x_max", "y_max", "score")
                for m in ("pearson", "ssim", "mask_iou")
            ),
            *("pearson", "ssim", "mask_iou", "n_objects"),
        )
    ),
}


def shapes_data(folder: Path, **settings: Any) -> CocoDetectionDataModule:
    """The data that the trained detectors have seen; four audit images."""
    shapes = make_shapes(folder, n_train=240, n_val=24, seed=3)
    defaults = {"batch_size": 4, "min_size": [128], "min_size_eval": 128, "num_workers": 0, "audit_images": 4}
    return CocoDetectionDataModule(
        shapes.train_annotations,
        shapes.train_images,
        shapes.val_annotations,
        shapes.val_images,
        **(defaults | settings),
    )


def module_like(model: torch.nn.Module, **settings: Any) -> DetectionModule:
    """A fresh DetectionModule with the weights of a trained detector."""
    name = "retinanet_tiny" if type(model).__name__ == "RetinaNet" else "faster_rcnn_tiny"
    module = DetectionModule(name, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-4), **settings)
    module.detector.load_state_dict(model.state_dict())
    return module


def quick_audit(**settings: Any) -> ODSmoothGradCallback:
    """An audit of few noise samples that pairs detections of a half-trained detector."""
    return ODSmoothGradCallback(**({"n_samples": 2, "score_threshold": 0.3} | settings))


def trainer_with(callbacks: list[Callback], folder: Path | None = None, **settings: Any) -> Trainer:
    """A quiet Trainer on one CPU that logs to TensorBoard if a folder is given."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": 4,
        "val_check_interval": 2,
        "check_val_every_n_epoch": None,
        "limit_val_batches": 2,
        "num_sanity_val_steps": 1,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": TensorBoardLogger(folder, name="logs", version=0) if folder else False,
    }
    return Trainer(callbacks=callbacks, **(defaults | settings))


def read_events(folder: Path) -> EventAccumulator:
    """Everything that the one run under a folder wrote, nothing thinned out."""
    (run,) = {path.parent for path in folder.rglob("events.out.tfevents.*")}
    # The files of several runs are read in the order of their names (10 before 9): nothing may be taken for a restart.
    everything = {"images": 0, "scalars": 0, "histograms": 0, "tensors": 0}
    events = EventAccumulator(str(run), size_guidance=everything, purge_orphaned_data=False)
    return events.Reload()
