"""Records of earlier versions, converted as they are read; a file itself is never changed.

====================== ============================================================================================
``odsg-audit-record/``
====================== ============================================================================================
``1``                  ``matched_passes`` is ``matched_samples`` now; among the metrics, ``audit/coverage`` is
                       ``audit/recall``, ``drift_floor/...`` is ``drift_noise/...``, and drift was a likeness (1 for the
                       same maps) where it is a distance now (0 for the same maps)
``2``                  no ``near``, ``box_maps``, ``occlusion`` and ``detected_again``
``3``                  the setting ``explainer`` was ``method``, and ``target`` always ``output``; no ``edges``
====================== ============================================================================================
"""

from collections.abc import Callable, Mapping
from typing import Any

from odsg_lightning.files import sha256_of_json
from odsg_lightning.names import PARAMETERS

_FIRST, _SECOND, _THIRD, _FOURTH = (f"odsg-audit-record/{version}" for version in (1, 2, 3, 4))
_LIKENESSES = ("pearson", "ssim", "mask_iou")
_CONTENT = ("fingerprint", "provenance", "objects", "further")


def converted(content: Any) -> Any:
    """Return a record's content as this version writes it; anything else as it is, for the schema to refuse."""
    if not isinstance(content, dict) or content.get("schema") not in (_FIRST, _SECOND, _THIRD):
        return content
    first, third = content["schema"] == _FIRST, content["schema"] == _THIRD
    rows, metrics, settings = (content.get(name) for name in ("objects", "metrics", "fingerprint"))
    before = _content_sha256(content)
    if isinstance(settings, dict):
        content = {**content, "fingerprint": _settings(settings)}
    if not (isinstance(rows, list) and isinstance(metrics, dict)):
        return {**content, "schema": _FOURTH}

    def row_of(row: Any) -> Any:
        return _from_third(row) if third else _from_second(_from_first(row) if first else row)

    result = {
        **content,
        "schema": _FOURTH,
        "objects": [row_of(row) for row in rows],
        "metrics": dict(_metric(name, value) for name, value in metrics.items()) if first else metrics,
    }
    if "further" in content:
        result["further"] = _further(content["further"], row_of)
    accepted = content.get("accepted")
    if isinstance(accepted, list) and accepted and isinstance(accepted[-1], dict):
        *earlier, last = accepted
        # The hash of what was accepted follows the conversion, if it was right: an edited baseline stays one.
        if before is not None and last.get("record_sha256") == before:
            result["accepted"] = [*earlier, {**last, "record_sha256": _content_sha256(result)}]
    return result


def _content_sha256(content: Mapping[str, Any]) -> str | None:
    """Return the hash; None for what no version writes, such as rows that cannot be sorted, or an infinity."""
    try:
        rows = sorted(content["objects"], key=lambda row: (row["image_id"], row["annotation_id"]))
        hashed = {name: content[name] for name in _CONTENT if name in content}
        return sha256_of_json({**hashed, "objects": rows})
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    if "method" not in settings or {"explainer", "target"} & settings.keys():
        return dict(settings)
    renamed = {"explainer" if name == "method" else name: value for name, value in settings.items()}
    return {**renamed, "target": "output"}


def _further(audits: Any, row_of: Callable[[Any], Any]) -> Any:
    if not isinstance(audits, list):
        return audits
    return [
        {**audit, "objects": [row_of(row) for row in audit["objects"]]}
        if isinstance(audit, dict) and isinstance(audit.get("objects"), list)
        else audit
        for audit in audits
    ]


def _from_third(row: Any) -> Any:
    if not isinstance(row, dict) or "iof" not in row:
        return row
    # No earlier version wrote them: left for the schema to refuse.
    return {**row, "edges": None if "edges" in row else {}}


def _from_second(row: Any) -> Any:
    iof = row.get("iof") if isinstance(row, dict) else None
    if not isinstance(iof, dict) or {"box_maps", "edges", "occlusion", "detected_again"} & row.keys():
        return row
    near = {f"{parameter}/near": None for parameter in PARAMETERS}
    return {**row, "iof": {**iof, **near}, "box_maps": {}, "edges": {}, "occlusion": {}, "detected_again": {}}


def _from_first(row: Any) -> Any:
    if not isinstance(row, dict):
        return row
    if "matched_samples" in row:  # which version 1 never wrote: left for the schema to refuse
        return {**row, "matched_passes": None}
    return {"matched_samples" if name == "matched_passes" else name: value for name, value in row.items()}


def _metric(name: str, value: Any) -> tuple[str, Any]:
    family, _, rest = name.partition("/")
    if name == "audit/coverage":
        return "audit/recall", value
    if family not in ("drift", "drift_ref", "drift_floor"):
        return name, value
    likeness = rest.rpartition("/")[2] in _LIKENESSES and isinstance(value, int | float) and not isinstance(value, bool)
    return f"{family.replace('floor', 'noise')}/{rest}", round(1 - value, 6) if likeness else value
