"""Audits a checkpoint on an audit set: the record and its maps, as ``odsg audit`` writes them."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn

from odsg_lightning.audit.choice import chosen_objects
from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.engine_notice import EngineNotice
from odsg_lightning.audit.explainer import explainer_of
from odsg_lightning.audit.isolation import isolated
from odsg_lightning.audit.loop import DetectorFailedError, audit
from odsg_lightning.audit.measure import detector_fingerprint, fingerprint, object_maps, object_row
from odsg_lightning.audit.pairing import PairingCounts, why_few_are_paired
from odsg_lightning.audit.progress import audit_progress
from odsg_lightning.audit.strips import audited_strip
from odsg_lightning.checkpoints.device import Device, choose_device
from odsg_lightning.checkpoints.opened import circumstances, classes_of, load_any, repeatable, running, why_afresh
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
) -> AuditRecord:
    """Audit a checkpoint and write the record, with its maps beside it.

    Finished images are kept in ``.<stem>.partial`` beside the output until all are: the same call goes on from them
    after an interruption, and the result is the same, bit for bit. In CI (:func:`odsg_lightning.environment.in_ci`) it
    always starts afresh, because the files there may be those of a pull request. Two calls on one machine write the
    same bytes.

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

    Returns:
        The record as written.

    Raises:
        BrokenInputError: a file cannot be used. Nothing is written then.
        UserInputError: arguments that do not fit, or an output that is no audit record.
    """
    checkpoint, output, config = Path(checkpoint), Path(output), config or AuditConfig()
    _refuse_output(output)
    place = choose_device(device)
    chosen = read_audit_set(audit_set)
    coco = unchanged_dataset(chosen, _path(annotations), _path(images))
    loaded = load_any(checkpoint, own_module, detector_config, num_classes, len(chosen.categories), trust)
    classes = torch.tensor(classes_of(loaded, chosen, coco, checkpoint))
    module = loaded.module.to(place)
    with isolated(module), repeatable(place):
        detector = resolve_adapter(module)
        EngineNotice(config).log_once(detector)
        audited_with = fingerprint(chosen.sha256, config, chosen.masks) | detector_fingerprint(detector)
        head = AuditRecord(audited_with, provenance(checkpoint), ())
        settings = circumstances(detector, loaded, place, config.engine, config.precision, config.trim)
        make_folder(output.parent)
        partial = PartialAudit(output, head, settings, with_maps=with_maps)
        partial.open(throw_away=why_afresh(restart))
        rows: list[ObjectRow] = []
        counts: list[PairingCounts | None] = []
        audited = _audited_objects(chosen, coco, config)
        with audit_progress(len(coco.images), explainer_of(config).samples) as (on_sample, on_finished_image):
            for listed, image in zip(chosen.images, coco.images, strict=True):
                done = partial.finished(image.id, (i for i in listed.annotation_ids if (image.id, i) in audited))
                if done is None:
                    sample = load_sample(chosen, coco, image)
                    sample = replace(sample, labels=classes[sample.labels])
                    with running(checkpoint):
                        try:
                            done, maps, of_image = _audit_image(
                                detector, sample, audited, config, place, with_maps, on_sample
                            )
                        except DetectorFailedError:
                            if not rows:
                                partial.remove()
                            raise
                    partial.add(done, maps)
                    counts.append(of_image)
                else:
                    on_finished_image()
                    counts.append(None)
                rows.extend(done)
    objects = tuple(sorted(rows, key=lambda row: row.key))
    record = AuditRecord(head.fingerprint, head.provenance, objects, dict(sorted((metrics or {}).items())))
    stored = partial.maps(image.id for image in coco.images) if with_maps else None
    written = write_record_with_maps(record, output, stored)
    partial.remove()
    why_few = why_few_are_paired(sum(not row.missed for row in objects), len(objects), counts, config)
    if why_few is not None:
        rank_zero_warn(f"The audit of {checkpoint}: {why_few}")
    return written


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
