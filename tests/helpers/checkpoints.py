"""Checkpoint files as Lightning and Detectron2 write them, without a training."""

import pickle
from pathlib import Path

import torch
from helpers.runs import trainer_with

from odsg_lightning import DetectionModule


def tiny_module(seed: int = 0, num_classes: int = 3) -> DetectionModule:
    torch.manual_seed(seed)
    return DetectionModule("retinanet_tiny", num_classes=num_classes)


def save_lightning(module: DetectionModule, path: Path) -> Path:
    """What a Trainer writes."""
    trainer = trainer_with([])
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path)
    return path


def save_zoo_pickle(module: DetectionModule, path: Path) -> Path:
    """What Detectron2's model zoo offers."""
    arrays = {name: value.numpy() for name, value in module.detector.state_dict().items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}, protocol=2))
    return path
