"""Every picture explained by every detector, on as many devices as there are; what is there already is left alone."""

import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arms import maps_of_picture
from lightning.pytorch import LightningModule, Trainer
from measuring import measured
from pictures import Pictures
from torch import nn
from torch.utils.data import DataLoader

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.isolation import isolated
from odsg_lightning.demo.recipe import no_foreign_warnings
from odsg_lightning.detectors.build import build_detector
from odsg_lightning.files import make_folder, replaced


@dataclass(frozen=True)
class Work:
    """What is to be done.

    Attributes:
        detectors: by name; each with its pictures.
        pictures: which, and how they are loaded.
        output: folder; ``maps/<detector>/<image id>.npz`` and ``values/<detector>/<image id>.npz`` are written there.
        samples: noisy copies, an even number.
        config: when an object counts as detected.
        keep_maps: of how many pictures the maps are written, too, for figures and another analysis.
    """

    detectors: dict[str, nn.Module]
    pictures: Pictures
    output: Path
    samples: int
    config: AuditConfig
    keep_maps: int

    def files(self, detector: str, image_id: int) -> tuple[Path, Path]:
        """Return where a picture's maps are, and what was measured of them."""
        maps, values = (self.output / kind / detector / f"{image_id}.npz" for kind in ("maps", "values"))
        return maps, values

    def missing(self) -> list[tuple[str, int]]:
        """Return detector and image id of what is not there yet, picture by picture."""
        names = list(self.detectors)
        # The next picture begins with the next detector: every device gets its share of slow ones.
        turns = (
            (names[turn % len(names) :] + names[: turn % len(names)]) for turn in range(len(self.pictures.objects))
        )
        every = [
            (detector, image_id)
            for image_id, turn in zip(self.pictures.objects, turns, strict=True)
            for detector in turn
        ]
        return [task for task in every if not self.files(*task)[1].exists()]


def explain_missing(work: Work, accelerator: str, devices: int, until: float) -> None:
    """Explain what is not explained yet.

    Lightning deals the pictures out to the devices; each process writes its own files, which appear whole or not at
    all. So a run that was interrupted goes on where it was, on other devices, too.

    Args:
        work: what.
        accelerator: as Lightning's Trainer takes it.
        devices: how many processes.
        until: ``time.time()`` after which no further picture is begun.
    """
    for detector in work.detectors:
        for file in work.files(detector, 0):
            make_folder(file.parent)
    tasks = work.missing()
    if tasks and time.time() < until:
        trainer = Trainer(
            accelerator=accelerator, devices=devices, strategy="ddp_spawn" if devices > 1 else "auto",
            inference_mode=False, logger=False, enable_checkpointing=False, enable_model_summary=False,
        )  # fmt: skip
        with no_foreign_warnings(), warnings.catch_warnings():
            for message in (".*does not have many workers", ".*predict returned None"):  # it writes files instead
                warnings.filterwarnings("ignore", message=message)
            loader = DataLoader(range(len(tasks)), batch_size=1, collate_fn=_only)  # type: ignore[arg-type]
            trainer.predict(_Explaining(work, tasks, until), loader, return_predictions=False)


def _only(batch: list[int]) -> int:
    return batch[0]


class _Explaining(LightningModule):
    """Explains one picture with one detector at each step."""

    def __init__(self, work: Work, tasks: list[tuple[str, int]], until: float) -> None:
        super().__init__()
        self.work, self.tasks, self.until = work, tasks, until
        self.detectors = nn.ModuleDict({name.replace(".", "_"): model for name, model in work.detectors.items()})
        self.untrained = nn.ModuleDict({name: untrained(model.cfg) for name, model in self.detectors.items()})

    def on_predict_start(self) -> None:
        if self.device.type == "cpu" and self.trainer.world_size > 1:
            torch.set_num_threads(1)

    def predict_step(self, index: int, batch_idx: int) -> None:
        if time.time() > self.until or self.trainer.received_sigterm:
            return
        name, image_id = self.tasks[index]
        maps_file, values_file = self.work.files(name, image_id)
        if values_file.exists():  # another run of the same experiment was faster
            return
        if maps_file.exists():
            with np.load(maps_file) as file:
                content = dict(file)
        else:
            turn = list(self.work.pictures.objects).index(image_id)
            content = self._explain(name.replace(".", "_"), image_id, turn)
            if turn < self.work.keep_maps:
                _write(maps_file, content)
        values = measured(content)
        values |= {"image": np.int64(image_id), "objects": np.int64(len(content["labels"]))}
        _write(values_file, values)

    def _explain(self, name: str, image_id: int, turn: int) -> dict[str, Any]:
        sample = self.work.pictures.load(image_id)
        sample = replace(sample, image=sample.image.to(self.device))
        model, fresh = self.detectors[name], self.untrained[name]
        with isolated(model), isolated(fresh):
            return maps_of_picture(model, fresh, sample, turn, self.work.samples, self.work.config)


def untrained(cfg: Any, seed: int = 0) -> nn.Module:
    """Return a detector of a configuration that has learned nothing, the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_detector(cfg).eval()


def _write(path: Path, arrays: dict[str, Any]) -> None:
    with replaced(path) as temporary:
        np.savez_compressed(temporary, **arrays)
