"""Compares explainers on checkpoints and an audit set, as ``odsg compare`` does, image by image."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn

from odsg_lightning.audit.isolation import isolated
from odsg_lightning.checkpoints.device import Device, choose_device
from odsg_lightning.checkpoints.launch import share_out
from odsg_lightning.checkpoints.opened import (
    Loaded,
    circumstances,
    classes_of,
    load_any,
    repeatable,
    running,
    scaled_otherwise,
    why_afresh,
)
from odsg_lightning.checkpoints.ranks import Ranks
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
    devices: int | None = 1,
    num_nodes: int = 1,
    on_image: Callable[[str, int, int], None] | None = None,
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
        devices: processes of each node that share the images of a checkpoint out, each on a GPU of its own or on one
            thread; None for one a core, at most 8, on a CPU. The values hang on no number of them.
        num_nodes: machines, which must share a file system.
        on_image: called in the first process with the checkpoint's name after its images: how many are done by all, and
            of how many. It can be pickled.

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
    if devices is None:
        devices = min(cores(), 8, len(coco.images)) if place.type == "cpu" else 1
    works = []
    for checkpoint in checkpoints:
        load = partial(load_any, checkpoint, own_module, detector_config, num_classes, len(chosen.categories), trust)
        works.append(
            _Work(
                checkpoint,
                sha256_of(checkpoint),
                load,
                folder / "parts",
                chosen,
                coco,
                methods,
                config,
                restart,
                on_image,
            )
        )
    share_out(partial(_in_turn, works), place, devices, num_nodes, threads=1)
    settings = {**asdict(config), "images": len(coco.images)}
    return Comparison(chosen.sha256, settings, clock_of(place), tuple(work.result() for work in works))


def _in_turn(works: Sequence["_Work"], ranks: Ranks) -> None:
    for work in works:
        work(ranks)


@dataclass(frozen=True)
class _Work:
    """One checkpoint on the audit set, done by all processes together; it can be pickled."""

    checkpoint: Path
    sha256: str
    load: Callable[[], Loaded]
    folder: Path
    chosen: AuditSet
    coco: CocoDataset
    methods: Sequence[Method]
    config: CompareConfig
    restart: bool
    on_image: Callable[[str, int, int], None] | None

    @property
    def explainers(self) -> dict[str, str]:
        return {method.name: repr(method.explainer) for method in self.methods}

    def __call__(self, ranks: Ranks) -> None:
        images = [image.id for image in self.coco.images]
        with repeatable(ranks.device):
            here = _Here(self, ranks.device)
            parts = self._parts(here.circumstances)

            def open_parts() -> list[int]:
                parts.open(throw_away=why_afresh(self.restart))
                return [turn for turn, image_id in enumerate(images) if parts.finished(image_id) is None]

            def compare(turn: int) -> None:
                found = here(turn)
                _refuse_useless(self.methods, found)
                parts.add(found)
                tell()

            def tell() -> None:
                if ranks.rank == 0 and self.on_image is not None:
                    done = sum(parts.image(image_id).exists() for image_id in images)
                    self.on_image(self.checkpoint.name, done, len(images))

            left = ranks.open(parts, open_parts)
            if len(left) < len(images):
                tell()
            ranks.share(left, compare, parts)
            if ranks.rank == 0 and here.otherwise and not self.result().objects:
                rank_zero_warn(f"Nothing was detected by {self.checkpoint}. {here.otherwise}")

    def result(self) -> CheckpointResult:
        """Return what all processes have found.

        Raises:
            BrokenInputError: an image of theirs is not there.
        """
        parts = self._parts({})
        found = [parts.by_any(parts.finished, image.id) for image in self.coco.images]
        gives = {method.name: method.explainer.parameters for method in self.methods}
        return CheckpointResult(self.checkpoint.name, self.sha256, tuple(found), self.explainers, gives)

    def _parts(self, circumstances: Mapping[str, Any]) -> Parts:
        head = {
            "audit_set": self.chosen.sha256,
            "checkpoint": self.sha256,
            "explainers": self.explainers,
            "versions": versions("torch", "torchvision", "detectron2", "numpy"),
            **asdict(self.config),
            **circumstances,
        }
        return Parts(self.folder / f"{self.checkpoint.stem}-{self.sha256[:8]}", head)


class _Here:
    """Compares an image of the audit set, by its position, in the process in which this was made."""

    def __init__(self, work: _Work, device: torch.device) -> None:
        loaded = work.load()
        self._work, self._device, self._module = work, device, loaded.module.to(device)
        if device.type == "cpu":
            self._module.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # a fifth faster: most of the time goes into detecting
        self._detector = resolve_adapter(self._module)
        self.circumstances = circumstances(self._detector, loaded, device)
        self.otherwise = scaled_otherwise(loaded, work.chosen, work.coco)
        self._classes = torch.tensor(classes_of(loaded, work.chosen, work.coco, work.checkpoint))

    def __call__(self, turn: int) -> ImageResult:
        work = self._work
        sample = load_sample(work.chosen, work.coco, work.coco.images[turn])
        with isolated(self._module), running(work.checkpoint):
            return compare_image(
                self._detector,
                replace(sample, labels=self._classes[sample.labels]),
                work.methods,
                work.config,
                device=self._device,
                turn=turn,
                with_pictures=turn < PICTURED,
            )


def _refuse_useless(methods: Sequence[Method], image: ImageResult) -> None:
    """Refuse an explainer that was asked for by name and that can explain nothing of this detector."""
    for source in {method.source: None for method in methods if method.required}:
        rows = [method.name for method in methods if method.source == source]
        if all(name in image.left_out for name in rows):
            raise UserInputError(f"{source}: {image.left_out[rows[0]]}")
