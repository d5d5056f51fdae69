"""Compares explainers on checkpoints and an audit set, as ``odsg compare`` does, image by image."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch

from odsg_lightning.audit.isolation import isolated
from odsg_lightning.checkpoints.device import Device, choose_device
from odsg_lightning.checkpoints.opened import (
    Loaded,
    circumstances,
    classes_of,
    load_any,
    repeatable,
    running,
    why_afresh,
)
from odsg_lightning.checkpoints.processes import in_processes, one_thread
from odsg_lightning.comparison.loop import CompareConfig, clock_of, compare_image
from odsg_lightning.comparison.methods import Method
from odsg_lightning.comparison.parts import Parts
from odsg_lightning.comparison.result import CheckpointResult, Comparison, ImageResult
from odsg_lightning.data.audit_set_files import load_sample, unchanged_dataset
from odsg_lightning.data.coco import CocoDataset
from odsg_lightning.detectors.resolve import resolve_adapter
from odsg_lightning.environment import cores, versions
from odsg_lightning.errors import UserInputError
from odsg_lightning.files import sha256_of
from odsg_lightning.records.audit_set import AuditSet, read_audit_set

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
    processes: int | None = 1,
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
        processes: which share the images of a checkpoint out; None for one a core, at most 8, on a CPU. The values hang
            on no number of them.
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
    if processes is None:
        processes = min(cores(), 8) if place.type == "cpu" else 1
    if processes < 1 or (processes > 1 and place.type != "cpu"):
        raise UserInputError(
            f"Expected argument `processes` to be at least 1, and 1 on a GPU, but got {processes} on {place.type!r}."
        )
    chosen = read_audit_set(audit_set)
    coco = unchanged_dataset(chosen, annotations, images)
    coco = replace(coco, images=coco.images[:max_images])
    results = []
    for checkpoint in checkpoints:
        load = partial(load_any, checkpoint, own_module, detector_config, num_classes, len(chosen.categories), trust)
        work = _Work(checkpoint, load, chosen, coco, methods, config, place)
        results.append(_compared(work, folder / "parts", restart, processes, on_image))
    settings = {**asdict(config), "images": len(coco.images)}
    return Comparison(chosen.sha256, settings, clock_of(place), tuple(results))


@dataclass(frozen=True)
class _Work:
    """One checkpoint on the audit set; it can be pickled."""

    checkpoint: Path
    load: Callable[[], Loaded]
    chosen: AuditSet
    coco: CocoDataset
    methods: Sequence[Method]
    config: CompareConfig
    device: torch.device


def _compared(
    work: _Work, folder: Path, restart: bool, processes: int, on_image: Callable[[str, int, int], None]
) -> CheckpointResult:
    loaded, sha256 = work.load(), sha256_of(work.checkpoint)
    explainers = {method.name: repr(method.explainer) for method in work.methods}
    with one_thread(), repeatable(work.device):
        here = _Here(work, loaded)
        parts = Parts(
            folder / f"{work.checkpoint.stem}-{sha256[:8]}",
            {
                "audit_set": work.chosen.sha256,
                "checkpoint": sha256,
                "explainers": explainers,
                "versions": versions("torch", "torchvision", "detectron2", "numpy"),
                **asdict(work.config),
                **circumstances(here.detector, loaded, work.device),
            },
        )
        parts.open(throw_away=why_afresh(restart))
        images = [image.id for image in work.coco.images]
        done = {image_id: found for image_id in images if (found := parts.finished(image_id)) is not None}
        left = [turn for turn, image_id in enumerate(images) if image_id not in done]
        if done:
            on_image(work.checkpoint.name, len(done), len(images))
        for found in in_processes(left, here, partial(_Here, work), processes):
            _refuse_useless(work.methods, found)
            parts.add(found)
            done[found.image_id] = found
            on_image(work.checkpoint.name, len(done), len(images))
    parameters = {method.name: method.explainer.parameters for method in work.methods}
    return CheckpointResult(
        work.checkpoint.name, sha256, tuple(done[image_id] for image_id in images), explainers, parameters
    )


class _Here:
    """Compares an image of the audit set, by its position, in the process in which this was made."""

    def __init__(self, work: _Work, loaded: Loaded | None = None) -> None:
        loaded = loaded or work.load()
        self._work, self._module = work, loaded.module.to(work.device)
        if work.device.type == "cpu":
            self._module.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # a fifth faster: most of the time goes into detecting
        self.detector = resolve_adapter(self._module)
        self._classes = torch.tensor(classes_of(loaded, work.chosen, work.coco, work.checkpoint))

    def __call__(self, turn: int) -> ImageResult:
        work = self._work
        sample = load_sample(work.chosen, work.coco, work.coco.images[turn])
        with isolated(self._module), running(work.checkpoint):
            return compare_image(
                self.detector,
                replace(sample, labels=self._classes[sample.labels]),
                work.methods,
                work.config,
                device=work.device,
                turn=turn,
                with_pictures=turn < PICTURED,
            )


def _refuse_useless(methods: Sequence[Method], image: ImageResult) -> None:
    """Refuse an explainer that was asked for by name and that can explain nothing of this detector."""
    for source in {method.source: None for method in methods if method.required}:
        rows = [method.name for method in methods if method.source == source]
        if all(name in image.left_out for name in rows):
            raise UserInputError(f"{source}: {image.left_out[rows[0]]}")
