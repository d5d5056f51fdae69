"""Audits a checkpoint on an audit set: the record and its maps, as ``odsg audit`` writes them."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.engine_notice import EngineNotice
from odsg_lightning.audit.isolation import isolated
from odsg_lightning.audit.loop import audit
from odsg_lightning.audit.measure import fingerprint, object_maps, object_row
from odsg_lightning.audit.strips import audited_strip
from odsg_lightning.checkpoints.detector import LoadedDetector, load_detector
from odsg_lightning.data.audit_set_files import load_sample, unchanged_dataset
from odsg_lightning.detectors.build import class_count, portable_config
from odsg_lightning.detectors.resolve import resolve_adapter
from odsg_lightning.environment import in_ci
from odsg_lightning.errors import BrokenInputError, OdsgError, UserInputError
from odsg_lightning.files import make_folder, sha256_of_json
from odsg_lightning.records.audit_set import AuditSet, read_audit_set
from odsg_lightning.records.maps_file import Key, MapsFile, ObjectMaps, maps_path
from odsg_lightning.records.partial import PartialAudit
from odsg_lightning.records.provenance import provenance
from odsg_lightning.records.record import AuditRecord, ObjectRow, read_record, write_record_with_maps
from odsg_lightning.saliency.gradients import engine_choice
from odsg_lightning.saliency.protocol import Detector
from odsg_lightning.types import AuditSample

Device = Literal["auto", "cpu", "cuda"]


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

    Returns:
        The record as written.

    Raises:
        BrokenInputError: a file cannot be used. Nothing is written then.
        UserInputError: arguments that do not fit, or an output that is no audit record.
    """
    checkpoint, output, config = Path(checkpoint), Path(output), config or AuditConfig()
    _refuse_output(output)
    place = _device(device)
    chosen = read_audit_set(audit_set)
    coco = unchanged_dataset(chosen, _path(annotations), _path(images))
    if checkpoint.suffix != ".ckpt" and num_classes is None:
        num_classes = len(chosen.categories)
    module = load_detector(checkpoint, detector_config, num_classes, trust=trust)
    _refuse_fewer_classes(module, chosen, checkpoint)
    module.to(place)
    with isolated(module), _repeatable(place):
        detector = resolve_adapter(module)
        EngineNotice(config).log_once(detector)
        head = AuditRecord(fingerprint(chosen.sha256, config, chosen.masks), provenance(checkpoint), ())
        settings = _settings(detector, module, config, place)
        make_folder(output.parent)
        partial = PartialAudit(output, head, settings, with_maps=with_maps)
        partial.open(throw_away="in CI it may have come with a pull request" if in_ci() else "as asked for" * restart)
        rows: list[ObjectRow] = []
        with tqdm(total=len(coco.images) * config.samples_per_image, desc="Audit", unit="sample", disable=None) as bar:
            for listed, image in zip(chosen.images, coco.images, strict=True):
                done = partial.finished(image.id, listed.annotation_ids[: config.max_objects_per_image])
                if done is None:
                    sample = load_sample(chosen, coco, image)
                    try:
                        done, maps = _audit_image(
                            detector, sample, config, place, with_maps, lambda: bar.update() and None
                        )
                    except Exception:
                        _refuse_broken_forward(detector, sample, place, checkpoint)
                        raise
                    partial.add(done, maps)
                else:
                    bar.update(config.samples_per_image)
                rows.extend(done)
    objects = tuple(sorted(rows, key=lambda row: row.key))
    record = AuditRecord(head.fingerprint, head.provenance, objects, dict(sorted((metrics or {}).items())))
    stored = partial.maps(image.id for image in coco.images) if with_maps else None
    written = write_record_with_maps(record, output, stored)
    partial.remove()
    return written


def _audit_image(
    detector: Detector,
    sample: AuditSample,
    config: AuditConfig,
    device: torch.device,
    with_maps: bool,
    on_sample: Callable[[], None],
) -> tuple[tuple[ObjectRow, ...], dict[Key, ObjectMaps]]:
    rows: list[ObjectRow] = []
    maps: dict[Key, ObjectMaps] = {}
    for item in audit(detector, [sample], config, device=device, on_sample=on_sample):
        rows.append(object_row(item))
        stored = object_maps(item, audited_strip(item, config)) if with_maps and not item.missed else None
        if stored is not None:
            maps[item.key] = stored
    return tuple(rows), maps


def _refuse_broken_forward(detector: Detector, sample: AuditSample, device: torch.device, checkpoint: Path) -> None:
    """Say so if the detector cannot even be run on an image; whatever else broke its audit is a fault of ours."""
    try:
        with torch.no_grad():
            detector.detect([sample.image.to(device)])
    except (OdsgError, OSError, MemoryError, torch.cuda.OutOfMemoryError):
        return
    except Exception as error:
        raise BrokenInputError(
            f"Expected {checkpoint} to be a detector that can be run on the audit set, but on image id "
            f"{sample.image_id} its forward pass raised {type(error).__name__}: {' '.join(str(error).split())[:500]}"
        ) from error


def _settings(
    detector: Detector, module: LoadedDetector, config: AuditConfig, device: torch.device
) -> Mapping[str, Any]:
    """Return what the bits of the result depend on besides the fingerprint and the provenance."""
    engine = engine_choice(detector, config.engine, config.precision)
    return {
        "detector": sha256_of_json(portable_config(module.cfg)),
        "engine": engine.name,
        "precision": engine.precision,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
    }


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


def _refuse_fewer_classes(module: LoadedDetector, chosen: AuditSet, checkpoint: Path) -> None:
    count, needed = class_count(module.cfg), len(chosen.categories)
    if count < needed:
        raise BrokenInputError(
            f"Expected {checkpoint} to be a detector of at least {needed} classes, the number of categories of the "
            f"audit set, but it has {count}."
        )


def _device(device: Device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserInputError(
            "Expected argument `device` to be one that is there, but got 'cuda', and PyTorch finds no GPU."
        )
    return torch.device(device)


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
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


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
