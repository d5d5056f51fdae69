"""The audit record: one JSON file with the settings of an audit, the objects that it audited and their values.

Training and CI speak this one format. Its JSON Schema lies beside this module. Nothing here loads torch.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import fastjsonschema

from odsg_lightning.errors import BrokenInputError
from odsg_lightning.files import read_json, sha256_of_json, write_text
from odsg_lightning.names import BOX_PARAMETERS, PARAMETERS
from odsg_lightning.records.contradictions import ContradictionError, refuse_contradictions
from odsg_lightning.records.further import as_lines, compact, expanded, further_as_lines
from odsg_lightning.records.maps_file import Key, ObjectMaps, maps_writer
from odsg_lightning.records.match_rate import stopped_as_json, stopped_from_json
from odsg_lightning.records.pair import write_pair
from odsg_lightning.records.versions import converted

SCHEMA = "odsg-audit-record/4"

ABSENT = object()
"""Stands for the value of an entry that one of two mappings lacks."""


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """One ground-truth object after an audit. Everything behind ``category`` is None if nothing of it was explained.

    Attributes:
        image_id: COCO image id.
        annotation_id: COCO annotation id; with ``image_id`` it names the object in every record.
        file_name: of the image, for people.
        category: name of the object's category.
        iou: IoU of the paired detection with the ground-truth box.
        score: of the paired detection, 0 to 1.
        box: XYXY of the paired detection, in pixels of the image as the detector sees it.
        matched_samples: in how many noise samples it was detected again.
        n_samples: number of noise samples that were made for it.
        iof: the values of :data:`odsg_lightning.names.IOF_NAMES`, 0 to 1; None where a map is undefined.
        box_maps: the values of :data:`odsg_lightning.names.MAP_NAMES`; None where no box map is defined.
        edges: the values of :data:`odsg_lightning.names.EDGE_NAMES`; None where a map has none.
        occlusion: the values of :data:`odsg_lightning.names.OCCLUSION_NAMES`, 0 to 1; None where it cannot be judged.
        detected_again: what was detected with pixels hidden, by ``<value of occlusion>/<replacement>``: ``score`` and
            ``iou`` with the detection of the whole image, 0 without one, and ``shift`` of its coordinates, in widths
            and heights of the box; None where it cannot be judged.
        undetected: whether there is no paired detection, and score, box and maps are those of the anchor or region that
            fits the object best (``target`` ``"ground_truth"``). Nothing was hidden from it.
        stopped: whether a ``tolerance`` ended its noise samples.
        trimmed: of a trimmed audit: :func:`odsg_lightning.records.means.trim_extremes` says what its values are.
    """

    image_id: int
    annotation_id: int
    file_name: str
    category: str
    iou: float | None = None
    score: float | None = None
    box: tuple[float, float, float, float] | None = None
    matched_samples: int | None = None
    n_samples: int | None = None
    iof: Mapping[str, float | None] | None = None
    box_maps: Mapping[str, float | None] = field(default_factory=dict)
    edges: Mapping[str, float | None] = field(default_factory=dict)
    occlusion: Mapping[str, float | None] = field(default_factory=dict)
    detected_again: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    undetected: bool = False
    stopped: bool = False
    trimmed: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """Image id and annotation id."""
        return self.image_id, self.annotation_id

    @property
    def explained(self) -> bool:
        """Whether there are values: of the paired detection, or of what stands for one."""
        return self.iof is not None

    @property
    def missed(self) -> bool:
        """Whether no detection was paired with the object."""
        return self.iof is None or self.undetected

    def box_mean(self, region: str) -> float | None:
        """Return the mean of the defined box maps' IOF of a region; None if none is defined.

        Args:
            region: one of :data:`odsg_lightning.names.SUMMARY_NAMES`.
        """
        values = [self.iof[f"{parameter}/{region}"] for parameter in BOX_PARAMETERS] if self.iof is not None else []
        defined = [value for value in values if value is not None]
        return sum(defined) / len(defined) if defined else None

    @property
    def object_iof(self) -> float | None:
        """Mean of the defined box maps' share on the object: :meth:`box_mean`."""
        return self.box_mean("object")

    @property
    def undefined(self) -> tuple[str, ...]:
        """The parameters whose map is undefined; empty if nothing was explained."""
        return () if self.iof is None else tuple(p for p in PARAMETERS if self.iof[f"{p}/object"] is None)


@dataclass(frozen=True)
class AuditRecord:
    """One audit.

    Attributes:
        fingerprint: everything that the numbers depend on besides the detector: ``audit_set`` (a hash) and the settings
            (:attr:`odsg_lightning.audit.config.AuditConfig.measured`).
        provenance: ``checkpoint``, ``checkpoint_sha256``, ``step``, ``git_commit``, ``git_dirty``, ``versions``;
            of an audit in training ``weights``, too.
        objects: in ascending image id and annotation id; at least one.
        metrics: what the Trainer logged beside it, by name.
        maps: ``file`` and ``sha256`` of the maps beside the record, or None.
        accepted: of a baseline: its reasons, oldest first; empty for any other record.
        further: of a baseline: audits accepted together with it, of the same objects; without metrics and maps.
    """

    fingerprint: Mapping[str, Any]
    provenance: Mapping[str, Any]
    objects: tuple[ObjectRow, ...]
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    maps: Mapping[str, str] | None = None
    accepted: tuple[Mapping[str, str], ...] = ()
    further: "tuple[AuditRecord, ...]" = ()

    @cached_property
    def by_key(self) -> dict[Key, ObjectRow]:
        """The objects by image id and annotation id."""
        return {row.key: row for row in self.objects}

    @property
    def is_baseline(self) -> bool:
        """Whether somebody has accepted it as a baseline."""
        return bool(self.accepted)

    @property
    def content_sha256(self) -> str:
        """Hash of what was measured and of what: the same for a record and the baseline made of it alone."""
        hashed = ("fingerprint", "provenance", "objects", "further")
        return sha256_of_json({key: value for key, value in _as_json(self).items() if key in hashed})


def differing_entries(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the entries of two mappings, fingerprints say, that differ, with both values; :data:`ABSENT` for none.

    Example:
        >>> differing_entries({"seed": 0, "sigma": 0.05}, {"seed": 1, "sigma": 0.05})
        {'seed': (0, 1)}
    """
    pairs = {name: (before.get(name, ABSENT), after.get(name, ABSENT)) for name in sorted({*before, *after})}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def read_record(path: str | Path) -> AuditRecord:
    """Read and check a record. One that an earlier version of this package wrote is converted.

    Raises:
        BrokenInputError: the file is no record: truncated, too large, not of the schema, or rows that contradict one
            another or the fingerprint. The message names the file and the place in it.
        DiskError: it may not be read, or the disk fails.
    """
    content = converted(read_json(path, "an audit record"))
    try:
        _validator()(content)
        return _from_json(content)
    except fastjsonschema.JsonSchemaValueException as error:
        raise BrokenInputError(f"Expected an audit record at {path}, but {_explain(content, error)}.") from error
    except ContradictionError as error:
        raise BrokenInputError(f"Expected an audit record at {path}, but {error}.") from error


def write_record(record: AuditRecord, path: Path) -> None:
    """Write a record, whole or not at all; each object is one line.

    Raises:
        ValueError: the record is none that :func:`read_record` would take.
        UserInputError: the file cannot be written.
        DiskError: the disk is full, or fails.
    """
    content = _as_json(record)
    try:
        _validator()(content)
        _from_json(content)
    except fastjsonschema.JsonSchemaValueException as error:
        raise ValueError(f"Expected a record of the schema {SCHEMA}, but {_explain(content, error)}.") from error
    objects, further = as_lines(content.pop("objects")), further_as_lines(content.pop("further", ()))
    head = json.dumps(content, indent=1, allow_nan=False)
    write_text(path, f'{head[:-2]},\n{further} "objects": [\n{objects}\n ]\n}}\n')


def write_record_with_maps(
    record: AuditRecord, path: Path, maps: Iterable[tuple[Key, ObjectMaps]] | None = None
) -> AuditRecord:
    """Write a record and its maps; whenever this ends, the old pair or the new one is there.

    Args:
        record: without its entry ``maps``.
        path: where it goes.
        maps: in ascending key; None for a record without maps: those of a record that was there are removed.

    Returns:
        The record as written.

    Raises:
        UserInputError: a file cannot be written.
        DiskError: the disk is full, or fails, or nothing may be written there.
    """

    def fill(temporary: Path) -> None:
        with maps_writer(temporary) as writer:
            for key, object_maps in maps or ():
                writer.add(key, object_maps)

    def write(entry: Mapping[str, str] | None) -> AuditRecord:
        written = AuditRecord(record.fingerprint, record.provenance, record.objects, record.metrics, entry)
        write_record(written, path)
        return written

    return write_pair(path, None if maps is None else fill, write)


def _from_json(content: dict[str, Any]) -> AuditRecord:
    rows = []
    for raw in content["objects"]:
        values = {name: value for name, value in raw.items() if name != "status"}
        if "box" in values:
            values |= {"box": tuple(raw["box"]), "undetected": raw.get("status") == "missed"}
            values["stopped"] = stopped_from_json(content["fingerprint"], raw)
        rows.append(ObjectRow(**values))
    refuse_contradictions(content["fingerprint"], rows)
    return AuditRecord(
        fingerprint=content["fingerprint"],
        provenance=content["provenance"],
        objects=tuple(sorted(rows, key=lambda row: row.key)),
        metrics=content["metrics"],
        maps=content["maps"],
        accepted=tuple(content.get("accepted", ())),
        further=tuple(_from_json(audit) for audit in expanded(content)),
    )


def _as_json(record: AuditRecord) -> dict[str, Any]:
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "fingerprint": dict(record.fingerprint),
        "provenance": dict(record.provenance),
        "metrics": dict(record.metrics),
        "maps": None if record.maps is None else dict(record.maps),
    }
    if record.accepted:
        content["accepted"] = [dict(entry) for entry in record.accepted]
    if record.further:
        further = [replace(one, objects=tuple(one.by_key[row.key] for row in record.objects)) for one in record.further]
        content["further"] = [compact(_as_json(one)) for one in further]
    return content | {"objects": [_row_as_json(row, record.fingerprint) for row in record.objects]}


def _row_as_json(row: ObjectRow, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    common = {name: getattr(row, name) for name in ("image_id", "annotation_id", "file_name", "category")}
    common |= {"status": "missed" if row.missed else "detected"}
    if row.iof is None or row.box is None:
        return common
    return common | {
        "iou": row.iou,
        "score": row.score,
        "box": list(row.box),
        "matched_samples": row.matched_samples,
        "n_samples": row.n_samples,
        **stopped_as_json(fingerprint, row),
        **({"trimmed": dict(row.trimmed)} if row.trimmed else {}),
        "iof": dict(row.iof),
        "box_maps": dict(row.box_maps),
        "edges": dict(row.edges),
        "occlusion": dict(row.occlusion),
        "detected_again": {name: None if again is None else dict(again) for name, again in row.detected_again.items()},
    }


@cache
def _validator() -> Callable[[Any], Any]:
    schema = json.loads(Path(__file__).with_name("record.schema.json").read_text(encoding="utf-8"))
    compiled: Callable[[Any], Any] = fastjsonschema.compile(schema)
    return compiled


def _explain(content: Any, error: fastjsonschema.JsonSchemaValueException) -> str:
    """Say where the content leaves the schema; of an object, in terms of its own status."""
    if isinstance(content, dict) and content.get("schema") != SCHEMA:
        return f"its schema is {str(content.get('schema'))[:100]!r}, not {SCHEMA!r}"
    return message if len(message := str(error.message)) < 500 else message[:500] + "..."
