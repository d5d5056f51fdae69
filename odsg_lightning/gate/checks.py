"""What is checked of two records: which means, over which objects, against what."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from odsg_lightning.gate.config import COLLAPSED, GateConfig, Level, Margin
from odsg_lightning.gate.resampling import MIN_IMAGES, Floats
from odsg_lightning.gate.result import SkippedCheck
from odsg_lightning.gate.values import ComparedValues, image_index
from odsg_lightning.records.record import AuditRecord

BY_CATEGORY = ("occlusion/sufficiency", "occlusion/necessity", "iof/near", "recall")
"""Recall, too: a category that is no longer detected has no other value that could fall."""


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


def overall_checks(values: ComparedValues, candidate: Mapping[str, Floats], config: GateConfig) -> list[Check]:
    """Return the checks over all objects, each followed by its floor; ``collapsed`` asks another question.

    Args:
        values: that both sides have.
        candidate: all values of the candidate, for the floors.
        config: which checks, margins and floors.
    """
    checks = []
    for name, rule in config.checks.items():
        if rule.level == "off" or name == COLLAPSED:
            continue
        checks.append(_change(name, rule.level, values, values.paired(name), rule.margin))
        if rule.floor is not None:
            checks.append(floor_check(name, rule.level, candidate[name], rule.floor))
    return checks


def category_checks(
    values: ComparedValues, record: AuditRecord, config: GateConfig
) -> tuple[list[Check], list[SkippedCheck]]:
    """Return the checks of each category, and those of categories that are too small for one."""
    checks: list[Check] = []
    skipped: list[SkippedCheck] = []
    rule = config.categories
    if rule.level == "off":
        return checks, skipped
    images, members = image_index(record), _members(record)
    for family in (name for name in BY_CATEGORY if len(values.paired(name))):
        for category, indices in members.items():
            name, objects = f"{family}[{category}]", np.intersect1d(indices, values.paired(family), assume_unique=True)
            n_images = len(np.unique(images[objects]))
            if len(objects) < rule.min_objects or n_images < MIN_IMAGES:
                needed = f"needs {rule.min_objects} in {MIN_IMAGES}"
                skipped.append(SkippedCheck(name, f"{len(objects)} objects in {n_images} images to compare, {needed}"))
                continue
            checks.append(_change(name, rule.level, values, objects, rule.margin, family))
    return checks, skipped


def floor_check(name: str, level: Level, values: Floats, floor: float) -> Check:
    """Return the check of a candidate's values ``[n_objects]`` alone, NaN where an object has none."""
    objects = np.flatnonzero(~np.isnan(values))
    mean = float(values[objects].mean()) if len(objects) else None
    threshold = floor if len(objects) else None
    return Check(f"{name} (floor)", level, objects, values[objects], threshold, None, mean)


def _members(record: AuditRecord) -> dict[str, NDArray[np.intp]]:
    """Return the indices of each category's objects, categories sorted."""
    members: dict[str, list[int]] = {}
    for index, row in enumerate(record.objects):
        members.setdefault(row.category, []).append(index)
    return {category: np.array(members[category], dtype=np.intp) for category in sorted(members)}


def _change(
    name: str, level: Level, values: ComparedValues, objects: NDArray[np.intp], margin: Margin, family: str = ""
) -> Check:
    if not len(objects):
        return Check(name, level, objects, np.empty(0), None, None, None, family)
    values_of = family or name
    old, new = values.before[values_of][objects], values.after[values_of][objects]
    mean = float(old.mean())
    threshold = -(margin.below(mean) + values.spread(values_of, objects))
    return Check(name, level, objects, new - old, threshold, mean, float(new.mean()), family)
