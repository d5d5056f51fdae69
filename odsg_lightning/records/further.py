"""Further accepted audits inside a baseline: where each comes from, and its values.

In JSON, ``further`` is a list of ``provenance`` and ``objects``. The objects come in the order of the record's own, so
they need no names: null is one of which nothing was explained, anything else its values, with ``"status": "missed"`` if
they are not those of a detection. The fingerprint is the record's.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from odsg_lightning.records.contradictions import ContradictionError

_NAMES = ("image_id", "annotation_id", "file_name", "category")


def compact(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a baseline keeps of an audit, given the audit's record as JSON.

    Example:
        >>> compact({"provenance": {}, "objects": [{"image_id": 1, "status": "missed"}]})
        {'provenance': {}, 'objects': [None]}
    """
    objects = [_without_names(row) if "iof" in row else None for row in content["objects"]]
    return {"provenance": content["provenance"], "objects": objects}


def expanded(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the record as JSON of each further audit in a baseline, given the baseline as JSON.

    Raises:
        ContradictionError: an audit has not as many objects as the record.
    """
    for audit in content.get("further", ()):
        if len(audit["objects"]) != len(content["objects"]):
            raise ContradictionError(
                f"a further accepted audit has {len(audit['objects'])} objects, the first {len(content['objects'])}"
            )
        pairs = zip(content["objects"], audit["objects"], strict=True)
        objects = [{name: first[name] for name in _NAMES} | (values or {}) for first, values in pairs]
        fingerprint, provenance = content["fingerprint"], audit["provenance"]
        yield {"fingerprint": fingerprint, "provenance": provenance, "metrics": {}, "maps": None, "objects": objects}


def as_lines(rows: Iterable[Any]) -> str:
    """Return rows as JSON, a line each, so that a diff in git can be read."""
    return ",\n".join(f"  {json.dumps(row, allow_nan=False)}" for row in rows)


def further_as_lines(audits: Sequence[Mapping[str, Any]]) -> str:
    """Return the entry ``further`` as JSON, with a comma behind it; nothing if there are none."""
    texts = [
        f'  {{"provenance": {json.dumps(audit["provenance"])}, "objects": [\n{as_lines(audit["objects"])}\n  ]}}'
        for audit in audits
    ]
    return ' "further": [\n' + ",\n".join(texts) + "\n ],\n" if texts else ""


def _without_names(row: Mapping[str, Any]) -> dict[str, Any]:
    told = {name: value for name, value in row.items() if name not in _NAMES}
    if told["status"] == "detected":
        del told["status"]
    return told
