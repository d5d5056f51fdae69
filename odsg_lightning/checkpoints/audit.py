"""Audits a checkpoint on an audit set: the record and its maps, as ``odsg audit`` writes them."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn

from odsg_lightning.audit.choice import chosen_objects
from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.engine_notice import EngineNotice
from odsg_lightning.audit.explainer import explainer_of
from odsg_lightning.audit.isolation import isolated
from odsg_lightning.audit.loop import audit
from odsg_lightning.audit.measure import detector_fingerprint, fingerprint, object_maps, object_row
from odsg_lightning.audit.pairing import PairingCounts, why_few_are_paired
from odsg_lightning.audit.progress import audit_progress
from odsg_lightning.audit.strips import audited_strip
from odsg_lightning.checkpoints.device import Device, choose_device
from odsg_lightning.checkpoints.launch import share_out
from odsg_lightning.checkpoints.opened import (
    circumstances,
    classes_of,
    load_any,
    repeatable,
    running,
    scaled_otherwise,
    why_afresh,
)
from odsg_lightning.checkpoints.ranks import Ranks
from odsg_lightning.data.audit_set_files import load_sample, unchanged_dataset
from odsg_lightning.data.coco import CocoDataset
from odsg_lightning.detectors.resolve import resolve_adapter
from odsg_lightning.errors import BrokenInputError, UserInputError
from odsg_lightning.files import make_folder
from odsg_lightning.records.audit_set import AuditSet, read_audit_set
from odsg_lightning.records.maps_file import Key, MapsFile, ObjectMaps, maps_path
from odsg_lightning.records.partial import PartialAudit
from odsg_lightning.records.provenance import provenance
from odsg_lightning.records.record import AuditRecord, ObjectRow, read_record, write_record_with_maps
from odsg_lightning.saliency.protocol import Detector
from odsg_lightning.types import AuditSample


def audit_checkpoint(
    checkpoint: str | Path,
    audit_set: str | Path,
    output: str | Path,
    config: AuditConfig | None = None,
    *,
    detector_config: str | Path | None = None,
    num_classes: int | None = None,
    annotations: str | Path | None = None,
    images: str | Path | None = None,
    metrics: Mapping[str, float] | None = None,
    device: Device = "auto",
    with_maps: bool = True,
    trust: bool = False,
    restart: bool = False,
    own_module: str | None = None,
    devices: int | None = None,
    num_nodes: int = 1,
) -> AuditRecord:
    """Audit a checkpoint and write the record, with its maps beside it.

    Finished images are kept in ``.<stem>.partial`` beside the output until all are: the same call goes on from them
    after an interruption, and the result is the same, bit for bit. In CI (:func:`odsg_lightning.environment.in_ci`) it
    always starts afresh, because the files there may be those of a pull request. Two calls on one machine write the
    same bytes, and so do any two numbers of devices. With several, each process calls this: Lightning Fabric starts
    them, or finds those that torchrun or Slurm have started (:func:`odsg_lightning.checkpoints.launch.share_out`).

    Args:
        checkpoint: Lightning ``.ckpt`` of a DetectionModule, or Detectron2 ``.pth`` or ``.pkl``.
        audit_set: file of :func:`odsg_lightning.records.audit_set.read_audit_set`.
        output: the record, ``.json``. Its folder is made. A record that is there is replaced.
        config: settings of the audit; None for the defaults.
        detector_config: of a Detectron2 checkpoint: bare name or YAML file.
        num_classes: of a Detectron2 checkpoint; None for the number of categories of the audit set.
        annotations: where the COCO file lies, if not where the audit set says.
        images: where its images lie, if not there.
        metrics: what was measured elsewhere, such as ``{"val/map_50": 0.99}``, to be kept in the record.
        device: ``"auto"``: a GPU if there is one.
        with_maps: whether to write ``<stem>.maps.npz``, too.
        trust: let the checkpoint run code.
        restart: begin again, whatever an interrupted call has left.
        own_module: ``"my_pkg.my_module:MyModule"``, the LightningModule that wrote the checkpoint, if that was no
            DetectionModule. It is imported, so ``trust`` must be True.
        devices: processes of each node that share the images out, each on a GPU of its own or, on a CPU, on one thread
            (:func:`threads_of_each`); None for this process alone, on all threads.
        num_nodes: machines, which must share a file system.

    Returns:
        The record as written.

    Raises:
        BrokenInputError: a file cannot be used. Nothing is written then.
        UserInputError: arguments that do not fit, or an output that is no audit record.
        LostProcessError: one of several processes ended by itself. What it has finished is kept.
    """
    output = Path(output)
    _refuse_output(output)
    place = choose_device(device)
    audit_here = _Audit(
        Path(checkpoint),
        Path(audit_set),
        output,
        config or AuditConfig(),
        detector_config,
        num_classes,
        _path(annotations),
        _path(images),
        dict(sorted((metrics or {}).items())),
        with_maps,
        trust,
        restart,
        own_module,
    )
    alone = devices is None and num_nodes == 1
    share_out(audit_here, place, devices, num_nodes, None if alone else threads_of_each(place))
    return read_record(output)


@dataclass(frozen=True)
class _Audit:
    """What :func:`audit_checkpoint` was asked for, done by all processes together; it can be pickled."""

    checkpoint: Path
    audit_set: Path
    output: Path
    config: AuditConfig
    detector_config: str | Path | None
    num_classes: int | None
    annotations: Path | None
    images: Path | None
    metrics: Mapping[str, float]
    with_maps: bool
    trust: bool
    restart: bool
    own_module: str | None

    def __call__(self, ranks: Ranks) -> None:
        config, device = self.config, ranks.device
        chosen = read_audit_set(self.audit_set)
        coco = unchanged_dataset(chosen, self.annotations, self.images)
        categories = len(chosen.categories)
        loaded = load_any(
            self.checkpoint, self.own_module, self.detector_config, self.num_classes, categories, self.trust
        )
        classes = torch.tensor(classes_of(loaded, chosen, coco, self.checkpoint))
        objects = _audited_objects(chosen, coco, config)
        module = loaded.module.to(device)
        with isolated(module), repeatable(device):
            detector = resolve_adapter(module)
            EngineNotice(config).log_once(detector)
            audited_with = fingerprint(chosen.sha256, config, chosen.masks) | detector_fingerprint(detector)
            head = AuditRecord(audited_with, provenance(self.checkpoint), ())
            settings = circumstances(detector, loaded, device, config.engine, config.precision, config.trim)
            partial = PartialAudit(self.output, head, settings, with_maps=self.with_maps)
            ids = {image.id: [i for i in image.annotation_ids if (image.id, i) in objects] for image in chosen.images}

            def open_partial() -> list[int]:
                make_folder(self.output.parent)
                partial.open(throw_away=why_afresh(self.restart))
                left = [image_id for image_id in ids if partial.finished(image_id, ids[image_id]) is None]
                return sorted(left, key=lambda image_id: -len(ids[image_id]))

            left = ranks.open(partial, open_partial)
            images = {image.id: image for image in coco.images}
            mine = len(left[ranks.rank :: ranks.size])
            with _progress(ranks, len(ids) - len(left), mine, explainer_of(config).samples) as on_sample:

                def audit_image(image_id: int) -> PairingCounts | None:
                    sample = load_sample(chosen, coco, images[image_id])
                    sample = replace(sample, labels=classes[sample.labels])
                    with running(self.checkpoint):
                        rows, maps, counts = _audit_image(
                            detector, sample, objects, config, device, self.with_maps, on_sample
                        )
                    partial.add(rows, maps)
                    return counts

                try:
                    counts = ranks.share(left, audit_image, partial)
                except Exception:
                    if ranks.rank == 0 and partial.is_empty:
                        partial.remove()
                    raise
        counts += [None] * (len(ids) - len(left))
        otherwise = scaled_otherwise(loaded, chosen, coco)
        ranks.first(lambda: self._write(head, partial, ids, counts, otherwise))

    def _write(
        self,
        head: AuditRecord,
        partial: PartialAudit,
        ids: Mapping[int, Sequence[int]],
        counts: Sequence[PairingCounts | None],
        otherwise: str,
    ) -> None:
        """Write the record from the finished images."""
        rows: list[ObjectRow] = []
        for image_id, annotation_ids in ids.items():
            rows.extend(partial.by_any(partial.finished, image_id, annotation_ids))
        objects = tuple(sorted(rows, key=lambda row: row.key))
        record = AuditRecord(head.fingerprint, head.provenance, objects, self.metrics)
        write_record_with_maps(record, self.output, partial.maps(ids) if self.with_maps else None)
        partial.remove()
        why_few = why_few_are_paired(sum(not row.missed for row in objects), len(objects), counts, self.config)
        if why_few is not None:
            rank_zero_warn(f"The audit of {self.checkpoint}: {why_few} {otherwise}".rstrip())


def threads_of_each(device: torch.device) -> int | None:
    """Return on how many threads each of several processes computes, which must not depend on their number.

    Sums are rounded in another order on another number of threads. On a CPU it is one, or what the environment variable
    ``OMP_NUM_THREADS`` says; on a GPU it does not matter: None.
    """
    if device.type != "cpu":
        return None
    return torch.get_num_threads() if os.environ.get("OMP_NUM_THREADS") else 1


@contextmanager
def _progress(ranks: Ranks, finished: int, mine: int, samples: int) -> Iterator[Callable[[], None]]:
    """Show how far the first process is, which has as much to do as any; yield what to call for each noise sample."""
    if ranks.rank > 0:
        yield lambda: None
        return
    with audit_progress(finished + mine, samples) as (on_sample, on_finished_image):
        for _ in range(finished):
            on_finished_image()
        yield on_sample


def _audit_image(
    detector: Detector,
    sample: AuditSample,
    objects: frozenset[Key],
    config: AuditConfig,
    device: torch.device,
    with_maps: bool,
    on_sample: Callable[[], None],
) -> tuple[tuple[ObjectRow, ...], dict[Key, ObjectMaps], PairingCounts | None]:
    counts: PairingCounts | None = None
    rows: list[ObjectRow] = []
    maps: dict[Key, ObjectMaps] = {}
    for item in audit(detector, [sample], config, device=device, on_sample=on_sample, objects=objects):
        counts = item.counts
        rows.append(object_row(item))
        stored = object_maps(item, audited_strip(item, config)) if with_maps and item.explained is not None else None
        if stored is not None:
            maps[item.key] = stored
    return tuple(rows), maps, counts


def _audited_objects(chosen: AuditSet, coco: CocoDataset, config: AuditConfig) -> frozenset[Key]:
    listed = {image.id: set(image.annotation_ids) for image in chosen.images}
    objects = {i.id: [(a.id, a.label) for a in i.annotations if a.id in listed[i.id]] for i in coco.images}
    return chosen_objects(objects, config.max_objects_per_image)


def _refuse_output(output: Path) -> None:
    """Refuse to write over anything but an audit record and its maps."""
    if output.suffix != ".json":
        raise UserInputError(f"Expected an output that ends in .json, but got {output}.")
    maps = maps_path(output)
    try:
        if os.path.lexists(output) and read_record(output).is_baseline:
            raise UserInputError(
                f"Expected {output} to be new or a record, but it is an accepted baseline. Write the record elsewhere, "
                "and replace the baseline with `odsg baseline accept`."
            )
        if os.path.lexists(maps):
            MapsFile(maps)
    except BrokenInputError as error:
        raise UserInputError(f"An output is not written over, unless it is an audit record. {error}") from error


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
