"""The result as JSON, for programs: ``odsg-gate-result/2``.

Keys: ``schema``, ``verdict`` (``pass``, ``regression``, ``inconclusive``, ``not comparable``, ``no baseline``),
``exit_code``, ``strict``, ``reasons`` and ``warnings`` (sentences), ``baseline`` and ``candidate`` (``file``,
``checkpoint``, ``checkpoint_sha256``, ``git_commit``), ``n_accepted`` (accepted audits compared with), ``n_images``,
``n_objects``, ``checks`` (the attributes of :class:`odsg_lightning.gate.result.CheckResult`, ``change`` and
``higher_is_better``), ``skipped_checks`` (``name``, ``reason``), ``ranked_by`` (name of a value), and the objects
``worst``, ``newly_missed``, ``newly_undefined`` (``image_id``, ``annotation_id``, ``file_name``, ``category``,
``baseline``, ``candidate``: that value; ``strip``: path of a picture). null is undefined. Later versions may add keys.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from odsg_lightning.files import write_text
from odsg_lightning.gate.result import ChangedObject, GateResult

SCHEMA = "odsg-gate-result/2"


def write_json(result: GateResult, path: Path, strict: bool = False) -> None:
    """Write the result, whole or not at all.

    Raises:
        UserInputError: the file cannot be written.
        DiskError: the disk is full, or fails.
    """
    write_text(path, json.dumps(result_as_json(result, strict), indent=1, allow_nan=False) + "\n")


def result_as_json(result: GateResult, strict: bool = False) -> dict[str, Any]:
    """Return the result as the module describes it."""

    def as_json(changed: ChangedObject) -> dict[str, Any]:
        strip = result.strips.get(changed.key)
        return {**asdict(changed), "strip": None if strip is None else str(strip)}

    return {
        "schema": SCHEMA,
        "verdict": result.verdict,
        "exit_code": result.exit_code(strict),
        "strict": strict,
        "reasons": list(result.reasons),
        "warnings": list(result.warnings),
        "baseline": dict(result.sides.get("baseline", {})),
        "candidate": dict(result.sides.get("candidate", {})),
        "n_accepted": result.n_accepted,
        "n_images": result.n_images,
        "n_objects": result.n_objects,
        "ranked_by": result.ranked_by,
        "checks": [
            {**asdict(check), "change": check.change, "higher_is_better": check.higher_is_better}
            for check in result.checks
        ],
        "skipped_checks": [asdict(check) for check in result.skipped_checks],
        "worst": [as_json(changed) for changed in result.worst],
        "newly_missed": [as_json(changed) for changed in result.newly_missed],
        "newly_undefined": [as_json(changed) for changed in result.newly_undefined],
    }
