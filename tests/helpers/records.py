"""Synthetic audit records: a world of objects of differing difficulty, and audits of it that differ as seeds do."""

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.files import sha256_of
from odsg_lightning.names import BOX_PARAMETERS, EDGE_NAMES, IOF_NAMES, MAP_NAMES, OCCLUSION_NAMES, PARAMETERS
from odsg_lightning.records.maps_file import ObjectMaps, maps_writer
from odsg_lightning.records.record import AuditRecord, ObjectRow, write_record

SHARES = {"object": 1.0, "edge": 0.5, "middle": 0.35, "opposite": 0.15}
"""Of an object's share, how much lies in each third."""

NEAR = 0.3
"""How much more of a map lies on the grown object."""

EDGES = {name: 0.3 if name.startswith("position/") else 2.0 - 0.75 * (not name.endswith("edge")) for name in EDGE_NAMES}
"""To which edge every map leans."""

REPLACEMENTS = {"sufficiency": ("blur", "grey"), "necessity": ("inpaint",)}
SCORE = 0.95


def make_record(
    n_images: int = 20,
    objects_per_image: int = 3,
    seed: int = 0,
    *,
    iof: float = 0.6,
    missed: float = 0.1,
    undefined: float = 0.0,
    categories: Sequence[str] = ("cat", "dog"),
    image_sd: float = 0.06,
    object_sd: float = 0.08,
    audit_seed: int = 0,
    seed_sd: float = 0.0,
    match_rate: float = 0.9,
    sufficiency: float = 0.9,
    necessity: float = 0.8,
    occlusion: bool = True,
    fingerprint: dict[str, Any] | None = None,
    **parts: Any,
) -> AuditRecord:
    """An audit of a world.

    Args:
        n_images: with ids 1, 2, ...
        objects_per_image: annotation ids run through all images.
        seed: of the world: the same seed, the same objects of the same difficulty.
        iof: mean share of a map on its object.
        missed: share of objects that are missed, the same ones in every audit of the world.
        undefined: share of the detected objects whose x_min map is undefined.
        categories: in turn over the objects.
        image_sd: how much the images' means differ.
        object_sd: how much the objects of one image differ.
        audit_seed: of the noise of the audit; 0 for the fingerprint's ``seed``, too.
        seed_sd: how much an object's value differs between two audits, beside what is common to its image (a third).
        match_rate: share of the noise samples in which a detection is found again.
        sufficiency: mean over the objects, before each is cut to 0 to 1; objects differ by an sd of 0.05, audits by
            ``seed_sd``.
        necessity: likewise.
        occlusion: whether pixels were hidden at all.
        fingerprint: entries that differ from the usual ones.
        **parts: of :class:`AuditRecord`.
    """
    world, noise = np.random.default_rng(seed), np.random.default_rng((seed, audit_seed, 7))
    count = n_images * objects_per_image
    image = np.repeat(np.arange(n_images), objects_per_image)
    truth = iof + image_sd * world.standard_normal(n_images)[image] + object_sd * world.standard_normal(count)
    easy, blank = world.random(count), world.random(count) < undefined
    measured = truth + seed_sd * (noise.standard_normal(n_images)[image] / 3 + noise.standard_normal(count))
    per_map = measured[:, None] + seed_sd * noise.standard_normal((count, len(PARAMETERS))) / 2
    told = {"audit_set": "a" * 64, **AuditConfig(seed=audit_seed, occlusion=occlusion).measured} | (fingerprint or {})
    samples = told["n_samples"]
    matched = noise.binomial(samples, match_rate, count) if match_rate < 1 else np.full(count, samples)
    hidden_world, hidden_noise = np.random.default_rng((seed, 11)), np.random.default_rng((seed, audit_seed, 13))
    hidden = np.array([sufficiency, necessity]) + 0.05 * hidden_world.standard_normal((count, 2))
    hidden = np.clip(hidden + seed_sd * hidden_noise.standard_normal((count, 2)), 0, 1).round(6).tolist()
    rows = []
    for index in range(count):
        base = ObjectRow(
            image_id=int(image[index]) + 1,
            annotation_id=index + 1,
            file_name=f"image_{image[index] + 1:05d}.jpg",
            category=categories[index % len(categories)],
        )
        if easy[index] < missed:
            rows.append(base)
            continue
        values = dict(zip(PARAMETERS, np.clip(per_map[index], 0, 1), strict=True))
        shares = {name: _share(float(values[_parameter(name)]), name.split("/")[1]) for name in IOF_NAMES}
        if blank[index]:
            shares |= {name: None for name in IOF_NAMES if name.startswith("x_min/")}
        rows.append(
            replace(
                base,
                iou=0.8,
                score=SCORE,
                box=(10.0, 20.0, 60.0, 80.0),
                matched_samples=int(matched[index]),
                n_samples=samples,
                iof=shares,
                box_maps={"area_ratio": 0.8, "relevance_mass": 0.3, "pointing_game": 1.0},
                edges=_edges(shares),
                **(hidden_pixels(dict(zip(OCCLUSION_NAMES, hidden[index], strict=True))) if occlusion else {}),
            )
        )
    provenance = {
        "checkpoint": "model.ckpt",
        "checkpoint_sha256": "c" * 64,
        "step": None,
        "git_commit": None,
        "git_dirty": None,
        "versions": {"odsg_lightning": "0.1.0"},
    }
    return AuditRecord(**({"fingerprint": told, "provenance": provenance, "objects": tuple(rows)} | parts))


def with_rows(record: AuditRecord, change: Callable[[ObjectRow], ObjectRow]) -> AuditRecord:
    """The record with every row changed."""
    return replace(record, objects=tuple(change(row) for row in record.objects))


def as_missed(row: ObjectRow) -> ObjectRow:
    """The same object, not detected."""
    return ObjectRow(row.image_id, row.annotation_id, row.file_name, row.category)


def as_undefined(row: ObjectRow, parameters: Sequence[str] = BOX_PARAMETERS) -> ObjectRow:
    """The same object with these maps undefined."""
    if row.iof is None:
        return row
    iof = {n: None if _parameter(n) in parameters else value for n, value in row.iof.items()}
    row = replace(row, iof=iof, edges=_edges(iof))
    return replace(row, box_maps=dict.fromkeys(MAP_NAMES)) if set(BOX_PARAMETERS) <= set(row.undefined) else row


def as_unjudged(row: ObjectRow, names: Sequence[str] = OCCLUSION_NAMES) -> ObjectRow:
    """The same object, of which hiding pixels cannot judge these values of occlusion."""
    return row if row.missed else replace(row, **hidden_pixels({**row.occlusion, **dict.fromkeys(names)}))


def shifted(row: ObjectRow, drop: float, names: Sequence[str] = IOF_NAMES) -> ObjectRow:
    """The same object with these values lower by ``drop``, within 0 to 1; names of IOF or of occlusion."""
    if row.iof is None:
        return row

    def lower(values: Mapping[str, float | None]) -> dict[str, float | None]:
        return {
            n: old if old is None or n not in names else min(max(old - drop, 0.0), 1.0) for n, old in values.items()
        }

    iof = lower(row.iof)
    return replace(row, iof=iof, edges=_edges(iof), **(hidden_pixels(lower(row.occlusion)) if row.occlusion else {}))


def dropped(record: AuditRecord, drop: float, names: Sequence[str] = IOF_NAMES) -> AuditRecord:
    """The record with every object's values lower."""
    return with_rows(record, lambda row: shifted(row, drop, names))


def as_baseline(record: AuditRecord, reason: str = "first model") -> AuditRecord:
    """The record, accepted."""
    one = {"reason": reason, "date": "2026-01-01", "record_sha256": record.content_sha256}
    return replace(record, accepted=(one,))


def write_with_maps(record: AuditRecord, path: Path, colour: tuple[int, int, int] = (90, 140, 200)) -> AuditRecord:
    """Write a record and, beside it, maps and a plain strip of each detected object; return the record as written."""
    beside = path.with_suffix(".maps.npz")
    side = 6
    with maps_writer(beside) as writer:
        for row in record.objects:
            if not row.missed:
                maps = np.random.default_rng(row.annotation_id).random((5, side, side)).astype(np.float16)
                writer.add(row.key, ObjectMaps(maps, maps > 0.5, webp(colour)))
    record = replace(record, maps={"file": beside.name, "sha256": sha256_of(beside)})
    write_record(record, path)
    return record


def webp(colour: tuple[int, int, int], size: tuple[int, int] = (110, 28)) -> bytes:
    """A plain picture."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def bomb_npz(path: Path) -> None:
    """Maps whose header claims more than any audit writes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f2", "fortran_order": False, "shape": (5, 50000, 50000)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("1_1.maps.npy", header.getvalue())


def _parameter(name: str) -> str:
    return name.partition("/")[0]


def _edges(iof: Mapping[str, float | None]) -> dict[str, float | None]:
    """The values of :data:`EDGES` that can stand beside these."""

    def stands(name: str) -> bool:
        on_object = iof[f"{name.split('/')[1]}/object"]
        return on_object is not None and (on_object > 0 or name.startswith("position/"))

    return {name: value if stands(name) else None for name, value in EDGES.items()}


def _share(value: float, region: str) -> float:
    return round(min(1.0, value + NEAR) if region == "near" else value * SHARES[region], 6)


def hidden_pixels(values: Mapping[str, float | None], score: float = SCORE) -> dict[str, Any]:
    """Values of occlusion, and detections that say the same, under each replacement."""
    again: dict[str, Any] = {}
    for name, value in values.items():
        share = None if value is None else value if name == "sufficiency" else 1 - value
        left = None if share is None else round(share * score, 6)
        found = {"score": left, "iou": 0.8, "shift": [0.01, -0.01, 0.0, 0.02]} if left else None
        missed = None if left is None else {"score": 0.0, "iou": 0.0, "shift": None}
        again |= {f"{name}/{replacement}": found or missed for replacement in REPLACEMENTS[name]}
    return {"occlusion": dict(values), "detected_again": again}
