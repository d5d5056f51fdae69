"""A checkpoint of any kind opened for an audit set: its detector, its classes, and what else its numbers depend on."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from odsg_lightning.audit.loop import DetectorFailedError
from odsg_lightning.checkpoints.classes import classes_of_categories
from odsg_lightning.checkpoints.detector import load_detector
from odsg_lightning.checkpoints.own_module import load_own_module
from odsg_lightning.data.coco import CocoDataset
from odsg_lightning.data.dataset import shortest_edge_size
from odsg_lightning.detectors.build import class_count, input_size, portable_config
from odsg_lightning.environment import in_ci
from odsg_lightning.errors import BrokenInputError, UserInputError
from odsg_lightning.files import sha256_of_json
from odsg_lightning.records.audit_set import AuditSet
from odsg_lightning.saliency.gradients import engine_choice
from odsg_lightning.saliency.options import Engine, Precision
from odsg_lightning.saliency.protocol import Detector


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint holds.

    Attributes:
        module: the detector, or the LightningModule around it.
        class_names: in the order of the labels; None if it does not say.
        class_count: None if it is not known.
        description: plain data that tells it from other detectors with these weights.
        input_size: length of an image's shorter edge and limit of the longer one that its configuration says, in
            pixels; None if it says nothing.
    """

    module: nn.Module
    class_names: tuple[str, ...] | None
    class_count: int | None
    description: Any
    input_size: tuple[int, int] | None = None


def load_any(
    checkpoint: Path,
    own_module: str | None,
    config: str | Path | None,
    num_classes: int | None,
    categories: int,
    trust: bool,
) -> Loaded:
    """Load a checkpoint of ours, of Detectron2, or of a module of the user's own.

    Args:
        checkpoint: the file.
        own_module: ``"my_pkg.my_module:MyModule"``, or None.
        config: of a Detectron2 checkpoint.
        num_classes: of a Detectron2 checkpoint; None for as many as there are categories.
        categories: number of those of the audit set.
        trust: let the file run code.

    Raises:
        BrokenInputError: the file cannot be used.
        UserInputError: arguments that do not fit.
    """
    if own_module is not None:
        if config is not None or num_classes is not None:
            raise UserInputError("Expected --module without --config and --num-classes: the module knows both.")
        module, names = load_own_module(checkpoint, own_module, trust=trust)
        return Loaded(module, names, None, own_module)
    if checkpoint.suffix != ".ckpt" and num_classes is None:
        num_classes = categories
    detector = load_detector(checkpoint, config, num_classes, trust=trust)
    cfg = detector.cfg
    return Loaded(detector, detector.category_names, class_count(cfg), portable_config(cfg), input_size(cfg))


def scaled_otherwise(loaded: Loaded, chosen: AuditSet, coco: CocoDataset) -> str:
    """Say in one line that the audit set's images are not scaled as the detector's configuration says; empty if not."""
    ours, theirs = (chosen.min_size, chosen.max_size), loaded.input_size
    if theirs is None:
        return ""
    sizes = [(image.height, image.width) for image in coco.images]
    if all(shortest_edge_size(*size, *ours) == shortest_edge_size(*size, *theirs) for size in sizes):
        return ""
    return (
        f"The audit set scales its images to {ours[0]} pixels, at most {ours[1]}, and the detector's configuration to "
        f"{theirs[0]}, at most {theirs[1]} (INPUT.MIN_SIZE_TEST, MAX_SIZE_TEST): was it trained on such images? "
        "`odsg audit-set` has --min-size and --max-size."
    )


def classes_of(loaded: Loaded, chosen: AuditSet, coco: CocoDataset, checkpoint: Path) -> list[int]:
    """Return the detector's label of each category of the audit set, by name where the checkpoint has names.

    Raises:
        UserInputError: they do not fit; see :func:`odsg_lightning.checkpoints.classes.classes_of_categories`.
    """
    audited = {annotation_id for image in chosen.images for annotation_id in image.annotation_ids}
    used = {a.label for image in coco.images for a in image.annotations if a.id in audited}
    names = [name for _, name in chosen.categories]
    return classes_of_categories(names, used, loaded.class_names, loaded.class_count, checkpoint)


def circumstances(
    detector: Detector,
    loaded: Loaded,
    device: torch.device,
    engine: Engine = "auto",
    precision: Precision = "full",
    trim: float = 0.0,
) -> Mapping[str, Any]:
    """Return what the bits of a result depend on besides its settings and the weights."""
    choice = engine_choice(detector, engine, precision, trim)
    return {
        "detector": sha256_of_json(loaded.description),
        "engine": choice.name,
        "precision": choice.precision,
        "trim": choice.trim,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }


def why_afresh(restart: bool) -> str:
    """Return why an interrupted run is not taken up; empty if it is."""
    return "in CI it may have come with a pull request" if in_ci() else "as asked for" * restart


@contextmanager
def running(checkpoint: Path) -> Iterator[None]:
    """Name the checkpoint whose detector does not run.

    Raises:
        BrokenInputError: a :class:`odsg_lightning.audit.loop.DetectorFailedError` was raised inside.
    """
    try:
        yield
    except DetectorFailedError as error:
        raise BrokenInputError(f"Expected the detector of {checkpoint} to run, but {error}") from error


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Let a GPU compute the same bits every time, where PyTorch can."""
    if device.type != "cuda":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS when it starts
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark
