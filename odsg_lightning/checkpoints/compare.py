"""Compares explainers on checkpoints and an audit set, as ``odsg compare`` does, image by image."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from odsg_lightning.audit.isolation import isolated
from odsg_lightning.checkpoints.device import Device, choose_device
from odsg_lightning.checkpoints.opened import circumstances, classes_of, load_any, repeatable, running, why_afresh
from odsg_lightning.comparison.loop import CompareConfig, clock_of, compare_image
from odsg_lightning.comparison.methods import Method
from odsg_lightning.comparison.parts import Parts
from odsg_lightning.comparison.result import CheckpointResult, Comparison, ImageResult
from odsg_lightning.data.audit_set_files import load_sample, unchanged_dataset
from odsg_lightning.data.coco import CocoDataset
from odsg_lightning.detectors.resolve import resolve_adapter
from odsg_lightning.environment import versions
from odsg_lightning.errors import UserInputError
from odsg_lightning.files import sha256_of
from odsg_lightning.records.audit_set import AuditSet, read_audit_set
from odsg_lightning.saliency.protocol import Detector

PICTURED = 8
"""Images, the first of the audit set, of which one object is drawn."""


def compare_checkpoints(
    checkpoints: Sequence[Path],
    audit_set: Path,
    folder: Path,
    methods: Sequence[Method],
    config: CompareConfig | None = None,
    *,
    detector_config: str | Path | None = None,
    num_classes: int | None = None,
    annotations: Path | None = None,
    images: Path | None = None,
    max_images: int | None = None,
    device: Device = "auto",
    trust: bool = False,
    own_module: str | None = None,
    restart: bool = False,
    on_image: Callable[[str, int, int], None] = lambda name, done, of: None,
) -> Comparison:
    """Explain the audit set's objects by every method, with every checkpoint.

    Finished images are kept in ``<folder>/parts/<checkpoint>-<hash>``: the same call goes on from them, and one with
    more checkpoints explains those only. In CI it always starts afresh, because the files there may be those of a pull
    request.

    Args:
        checkpoints: see :func:`odsg_lightning.checkpoints.audit.audit_checkpoint`, also for those not listed here.
        audit_set: file of :func:`odsg_lightning.records.audit_set.read_audit_set`.
        folder: for the results. It is made.
        methods: of :func:`odsg_lightning.comparison.methods.make_methods`.
        config: None for the defaults.
        detector_config: of a Detectron2 checkpoint.
        num_classes: of a Detectron2 checkpoint.
        annotations: where the COCO file lies, if not where the audit set says.
        images: where its images lie, if not there.
        max_images: the first so many of the audit set; None for all.
        device: ``"auto"``: a GPU if there is one.
        trust: let the checkpoint run code.
        own_module: ``"my_pkg.my_module:MyModule"``, which wrote the checkpoint.
        restart: begin again, whatever an earlier call has left.
        on_image: called with the checkpoint's name after each image: how many are done, and of how many.

    Raises:
        BrokenInputError: a file cannot be used.
        UserInputError: arguments that do not fit; an explainer that was asked for by name and cannot explain this
            detector; a checkpoint that is named twice.
    """
    config, place = config or CompareConfig(), choose_device(device)
    if len({path.absolute() for path in checkpoints}) < len(checkpoints):
        raise UserInputError("Expected checkpoints that differ, but got the same one twice.")
    if max_images is not None and max_images < 1:
        raise UserInputError(f"Expected argument `max_images` to be at least 1, but got {max_images}.")
    chosen = read_audit_set(audit_set)
    coco = unchanged_dataset(chosen, annotations, images)
    coco = replace(coco, images=coco.images[:max_images])
    results = []
    for checkpoint in checkpoints:
        loaded = load_any(checkpoint, own_module, detector_config, num_classes, len(chosen.categories), trust)
        classes = torch.tensor(classes_of(loaded, chosen, coco, checkpoint))
        module, sha256 = loaded.module.to(place), sha256_of(checkpoint)
        with isolated(module), repeatable(place):
            work = _Work(checkpoint, resolve_adapter(module), chosen, coco, classes, methods, config, place)
            parts = Parts(
                folder / "parts" / f"{checkpoint.stem}-{sha256[:8]}",
                {
                    "audit_set": chosen.sha256,
                    "checkpoint": sha256,
                    "explainers": {method.name: repr(method.explainer) for method in methods},
                    "versions": versions("torch", "torchvision", "detectron2", "numpy"),
                    **asdict(config),
                    **circumstances(work.detector, loaded, place),
                },
            )
            parts.open(throw_away=why_afresh(restart))
            done = _images(work, parts, on_image)
        results.append(
            CheckpointResult(
                checkpoint.name,
                sha256,
                done,
                {method.name: repr(method.explainer) for method in methods},
                {method.name: method.explainer.parameters for method in methods},
            )
        )
    settings = {**asdict(config), "images": len(coco.images)}
    return Comparison(chosen.sha256, settings, clock_of(place), tuple(results))


@dataclass(frozen=True)
class _Work:
    """One checkpoint on the audit set."""

    checkpoint: Path
    detector: Detector
    chosen: AuditSet
    coco: CocoDataset
    classes: Tensor
    methods: Sequence[Method]
    config: CompareConfig
    device: torch.device


def _images(work: _Work, parts: Parts, on_image: Callable[[str, int, int], None]) -> tuple[ImageResult, ...]:
    count = len(work.coco.images)
    images = []
    for turn, image in enumerate(work.coco.images):
        done = parts.finished(image.id)
        if done is None:
            sample = load_sample(work.chosen, work.coco, image)
            with running(work.checkpoint):
                done = compare_image(
                    work.detector,
                    replace(sample, labels=work.classes[sample.labels]),
                    work.methods,
                    work.config,
                    device=work.device,
                    turn=turn,
                    with_pictures=turn < PICTURED,
                )
            _refuse_useless(work.methods, done)
            parts.add(done)
        images.append(done)
        on_image(work.checkpoint.name, len(images), count)
    return tuple(images)


def _refuse_useless(methods: Sequence[Method], image: ImageResult) -> None:
    """Refuse an explainer that was asked for by name and that can explain nothing of this detector."""
    for source in {method.source: None for method in methods if method.required}:
        rows = [method.name for method in methods if method.source == source]
        if all(name in image.left_out for name in rows):
            raise UserInputError(f"{source}: {image.left_out[rows[0]]}")
