"""Trains and validates in one of two processes, and writes down what happened: ``ddp_run.py settings.json``.

Each process runs this file (``LOCAL_RANK`` tells them apart, as with ``torchrun``) and does the tasks in the settings
in turn, one Trainer each: many checks share one start, which costs several seconds.
"""

import hashlib
import json
import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, seed_everything
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.runs import module_like, quick_audit, shapes_data, trainer_with

from odsg_lightning import resolve_adapter
from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.loop import audit
from odsg_lightning.audit.measure import AuditedObject
from odsg_lightning.detectors.build import build_detector, load_config

TWO_PROCESSES = {"strategy": "ddp", "devices": 2}


class Losses(Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, module, outputs, *_):
        self.values.append(outputs["loss"].item())


class FailsInSecondProcess:
    """Detects properly in the process of rank 0, and breaks in that of rank 1."""

    def __init__(self, module: LightningModule) -> None:
        self.inner, self.broken = resolve_adapter(module), module.global_rank == 1

    def detect(self, images):
        if self.broken:
            raise ArithmeticError("broken in the second process")
        return self.inner.detect(images)


ADAPTERS = {"none": resolve_adapter, "second": FailsInSecondProcess}


def digest(value: Any) -> str:
    """Fingerprint of every bit of a nested state."""
    found = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, torch.Tensor):
            found.update(part.detach().contiguous().numpy().tobytes())
        elif isinstance(part, dict):
            add(list(part.items()))
        elif isinstance(part, list | tuple):
            for item in part:
                add(item)
        else:
            found.update(repr(part).encode())

    add(value)
    return found.hexdigest()


@contextmanager
def noting_what_is_measured() -> Iterator[list[list[list[Any]]]]:
    """Yield a list that gets, for each audit, image id, annotation id and the bits of the values of each object.

    Those of the objects that this process measures, in the audit itself and not under another seed.
    """
    found: list[list[list[Any]]] = []

    def noted(detector: Any, samples: Any, config: AuditConfig, **options: Any) -> Iterator[AuditedObject]:
        objects: list[list[Any]] = []
        if config.seed == AuditConfig.seed:
            found.append(objects)
        for item in audit(detector, samples, config, **options):
            if item.explained is not None:
                objects.append([*item.key, bits(item.explained.iof)])
            yield item

    with patch("odsg_lightning.callback.distributed.audit", noted):
        yield found


def bits(values: torch.Tensor) -> str:
    """The values as they are: a decimal number could be a rounded one."""
    return values.numpy().tobytes().hex()


def run(task: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Do one task, ``fit`` or ``validate``, and return what is to be compared."""
    seed_everything(7, verbose=False)
    model = build_detector(load_config("retinanet_tiny"))
    model.load_state_dict(torch.load(settings["weights"]))
    module = module_like(model)
    for stage in module.detector.backbone.bottom_up.stages[-1:]:
        stage.append(nn.Dropout(0.2))  # so that the random states matter
    losses = Losses()
    callback = quick_audit(**task["audit"], adapter=ADAPTERS[task["fails"]]) if task["audit"] is not None else None
    trainer = trainer_with(
        [losses, *([callback] if callback else [])],
        task["logs"] and Path(task["logs"]),
        **TWO_PROCESSES,
        **task["trainer"],
    )
    data = shapes_data(Path(settings["shapes"]), audit_images=task["audit_images"], check_images=False)
    with warnings.catch_warnings(record=True) as warned, noting_what_is_measured() as measured:
        warnings.simplefilter("always")
        getattr(trainer, task["entry"])(module, datamodule=data, **task["options"])
    if task["checkpoint"]:
        trainer.save_checkpoint(task["checkpoint"])
    return {
        "world_size": trainer.world_size,
        "logged": {name: value.item() for name, value in trainer.callback_metrics.items()},
        "losses": losses.values,
        "weights": digest(module.state_dict()),
        "optimizer": digest([optimizer.state_dict() for optimizer in trainer.optimizers]),
        "random": digest([torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()]),
        "n_failed": callback and callback.n_failed,
        "n_audits": callback and callback.n_audits,
        "measured": measured,
        "per_object": [bits(values) for values in callback.iof.per_object()] if callback else None,
        "warnings": [str(warning.message) for warning in warned if warning.category is RuntimeWarning],
        "pid": os.getpid(),
    }


def main(path: str) -> None:
    torch.set_num_threads(1)
    settings = json.loads(Path(path).read_text())
    results = {name: run(task, settings) for name, task in settings["tasks"].items()}
    Path(settings["results"], f"rank_{os.environ['LOCAL_RANK']}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1])
