"""The detectors that are explained where there are no weights to load: both tiny ones, trained on generated shapes."""

import logging
import multiprocessing
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Trainer, seed_everything

from odsg_lightning.demo.recipe import RECIPES, demo_data, demo_detector, no_foreign_warnings
from odsg_lightning.demo.shapes import ShapesDataset
from odsg_lightning.files import make_folder


def trained(
    detectors: Sequence[str],
    seeds: Sequence[int],
    shapes: ShapesDataset,
    folder: Path,
    steps: int | None,
    processes: int,
) -> dict[str, Path]:
    """Return a checkpoint of each detector and seed, by name; those that are not there yet are trained.

    A seed says how the weights start and in which order the images come. The images are the same.

    Args:
        detectors: keys of :data:`~odsg_lightning.demo.recipe.RECIPES`.
        seeds: of the trainings.
        shapes: the data; only its training images are looked at.
        folder: where the checkpoints lie; each appears whole or not at all.
        steps: of every training; None for the demonstration's.
        processes: how many train at the same time, a thread each.
    """
    make_folder(folder)
    jobs = [(detector, seed, folder / f"{detector}-{seed}.ckpt") for detector in detectors for seed in seeds]
    missing = [job for job in jobs if not job[2].exists()]
    train = partial(_train, shapes=shapes, steps=steps)
    if processes == 1:
        for job in missing:
            train(*job)
    elif missing:
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            list(pool.map(train, *zip(*missing, strict=True)))
    return {checkpoint.stem: checkpoint for _, _, checkpoint in jobs}


def _train(detector: str, seed: int, checkpoint: Path, shapes: ShapesDataset, steps: int | None) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    steps = RECIPES[detector][1] if steps is None else steps
    seed_everything(seed, verbose=False)
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=steps, limit_val_batches=0, gradient_clip_val=5.0,
        logger=False, enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False,
    )  # fmt: skip
    with no_foreign_warnings():
        trainer.fit(demo_detector(detector, steps), datamodule=demo_data(shapes))
    unfinished = checkpoint.with_name(f".{checkpoint.name}")
    trainer.save_checkpoint(unfinished, weights_only=True)
    os.replace(unfinished, checkpoint)
    print(f"{checkpoint.stem} is trained: {steps} steps", flush=True)
