"""Whether two records may be compared, and what is checked then: which means, over which objects, against what."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from odsg_lightning.gate.config import CHECKS, GateConfig, Level, Margin
from odsg_lightning.gate.resampling import MIN_IMAGES, Floats
from odsg_lightning.gate.result import SkippedCheck
from odsg_lightning.names import IOF_NAMES
from odsg_lightning.records.record import ABSENT, AuditRecord, ObjectRow, differing_entries
from odsg_lightning.text import plain

BY_CATEGORY = ("iof/object", "recall")
"""Recall, too: a category that is no longer detected has no IOF that could fall."""


@dataclass(frozen=True, slots=True)
class Check:
    """Is the mean of ``values`` below the threshold?

    Attributes:
        name: of the check.
        level: ``error`` or ``warn``.
        objects: ``[n]``, indices of the objects with a value.
        values: ``[n]``, the change of each object; of a floor, the candidate's value.
        threshold: None if there is no object.
        baseline: the baseline's mean over the objects.
        candidate: the candidate's.
        family: of a category, the check that it is a part of.
    """

    name: str
    level: Level
    objects: NDArray[np.intp]
    values: Floats
    threshold: float | None
    baseline: float | None
    candidate: float | None
    family: str = ""


def differences(baseline: AuditRecord, candidate: AuditRecord, *, ignore_seed: bool = False) -> tuple[str, ...]:
    """Return why two records may not be compared, in sentences; nothing if they may.

    Records are comparable if their audits had the same settings (the fingerprint) and the same objects.
    """
    entries = differing_entries(baseline.fingerprint, candidate.fingerprint)
    if ignore_seed:
        entries.pop("seed", None)
    reasons = [
        f"The audits differ in {plain(name, 40)}: {_shown(before)} in the baseline, {_shown(after)} in the candidate."
        for name, (before, after) in entries.items()
    ]
    if list(entries) == ["seed"]:
        reasons.append("--ignore-seed compares them all the same: part of each change is then the noise of the seeds.")
    return tuple(reasons) or _other_objects(baseline, candidate)


def build_checks(
    baseline: AuditRecord, candidate: AuditRecord, config: GateConfig
) -> tuple[list[Check], list[SkippedCheck]]:
    """Return the checks of a configuration, categories last, and those of categories that are too small for one."""
    before, after = check_values(baseline), check_values(candidate)
    checks = []
    for name, rule in config.checks.items():
        if rule.level == "off":
            continue
        paired = np.flatnonzero(~np.isnan(before[name] - after[name]))
        checks.append(_change(name, rule.level, before[name], after[name], paired, rule.margin))
        if rule.floor is not None:
            checks.append(_floor(name, rule.level, after[name], rule.floor))
    skipped: list[SkippedCheck] = []
    categories = config.categories
    if categories.level == "off":
        return checks, skipped
    images, members = image_index(baseline), _members(baseline)
    for family in BY_CATEGORY:
        defined = ~np.isnan(before[family] - after[family])
        for category, indices in members.items():
            name, objects = f"{family}[{category}]", indices[defined[indices]]
            n_images = len(np.unique(images[objects]))
            if len(objects) < categories.min_objects or n_images < MIN_IMAGES:
                needed = f"needs {categories.min_objects} in {MIN_IMAGES}"
                skipped.append(SkippedCheck(name, f"{len(objects)} objects in {n_images} images to compare, {needed}"))
                continue
            level, margin = categories.level, categories.margin
            checks.append(_change(name, level, before[family], after[family], objects, margin, family))
    return checks, skipped


def _other_objects(baseline: AuditRecord, candidate: AuditRecord) -> tuple[str, ...]:
    before = {key: row.category for key, row in baseline.by_key.items()}
    after = {key: row.category for key, row in candidate.by_key.items()}
    if before == after:
        return ()
    strange = sorted(before.keys() ^ after.keys()) or sorted(key for key in before if before[key] != after[key])
    image_id, annotation_id = strange[0]
    what = "audited objects" if before.keys() ^ after.keys() else "categories"
    return (
        f"The records say that they have the same audit set, but their {what} differ, first in annotation "
        f"{annotation_id} of image {image_id} ({len(strange)} in all). One of them was changed by hand, or is broken.",
    )


def _shown(value: object) -> str:
    return "nothing" if value is ABSENT else plain(repr(value), 70)


def _members(record: AuditRecord) -> dict[str, NDArray[np.intp]]:
    """Return the indices of each category's objects, categories sorted."""
    members: dict[str, list[int]] = {}
    for index, row in enumerate(record.objects):
        members.setdefault(row.category, []).append(index)
    return {category: np.array(members[category], dtype=np.intp) for category in sorted(members)}


def _change(
    name: str,
    level: Level,
    before: Floats,
    after: Floats,
    objects: NDArray[np.intp],
    margin: Margin,
    family: str = "",
) -> Check:
    if not len(objects):
        return Check(name, level, objects, np.empty(0), None, None, None, family)
    old, new = before[objects], after[objects]
    mean = float(old.mean())
    return Check(name, level, objects, new - old, -margin.below(mean), mean, float(new.mean()), family)


def _floor(name: str, level: Level, after: Floats, floor: float) -> Check:
    objects = np.flatnonzero(~np.isnan(after))
    mean = float(after[objects].mean()) if len(objects) else None
    threshold = floor if len(objects) else None
    return Check(f"{name} (floor)", level, objects, after[objects], threshold, None, mean)


def check_values(record: AuditRecord) -> dict[str, Floats]:
    """Return the values of each of :data:`odsg_lightning.gate.config.CHECKS`.

    Returns:
        By name ``[n_objects]``, 0 to 1, in the order of ``record.objects``. NaN where an object has none: it was missed
        (but for recall, which is 0 then), or its map is undefined.
    """
    return dict(zip(CHECKS, np.array([_values(row) for row in record.objects], dtype=np.float64).T, strict=True))


def image_index(record: AuditRecord) -> NDArray[np.intp]:
    """Return the image of each object, numbered from 0 in the order of the image ids."""
    return np.unique([row.image_id for row in record.objects], return_inverse=True)[1].astype(np.intp).reshape(-1)


_MISSED = (*[None] * (1 + len(IOF_NAMES)), 0.0, None)


def _values(row: ObjectRow) -> tuple[float | None, ...]:
    if row.iof is None or row.matched_samples is None or not row.n_samples:
        return _MISSED
    return (row.object_iof, *(row.iof[name] for name in IOF_NAMES), 1.0, row.matched_samples / row.n_samples)
