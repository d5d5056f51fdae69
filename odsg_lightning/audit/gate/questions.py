"""What is asked of two comparable records: which mean, over which objects, against which threshold."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from odsg_lightning.audit.gate.config import GateConfig, Level, Margin
from odsg_lightning.audit.gate.resampling import MIN_IMAGES
from odsg_lightning.audit.gate.result import LeftOut
from odsg_lightning.audit.gate.values import Floats, check_values, image_index
from odsg_lightning.audit.record import AuditRecord

BY_CATEGORY = ("iof/object", "coverage")
"""Coverage, too: a category that is no longer detected has no IOF that could fall."""


@dataclass(frozen=True, slots=True)
class Question:
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


def ask(baseline: AuditRecord, candidate: AuditRecord, config: GateConfig) -> tuple[list[Question], list[LeftOut]]:
    """Return the questions of a configuration, categories last, and the categories that are too small for one."""
    before, after = check_values(baseline), check_values(candidate)
    questions = []
    for name, rule in config.checks.items():
        if rule.level == "off":
            continue
        paired = np.flatnonzero(~np.isnan(before[name] - after[name]))
        questions.append(_change(name, rule.level, before[name], after[name], paired, rule.margin))
        if rule.floor is not None:
            questions.append(_floor(name, rule.level, after[name], rule.floor))
    left_out: list[LeftOut] = []
    categories = config.categories
    if categories.level == "off":
        return questions, left_out
    images, members = image_index(baseline), _members(baseline)
    for family in BY_CATEGORY:
        defined = ~np.isnan(before[family] - after[family])
        for category, indices in members.items():
            name, objects = f"{family}[{category}]", indices[defined[indices]]
            n_images = len(np.unique(images[objects]))
            if len(objects) < categories.min_objects or n_images < MIN_IMAGES:
                needed = f"needs {categories.min_objects} in {MIN_IMAGES}"
                left_out.append(LeftOut(name, f"{len(objects)} objects in {n_images} images to compare, {needed}"))
                continue
            level, margin = categories.level, categories.margin
            questions.append(_change(name, level, before[family], after[family], objects, margin, family))
    return questions, left_out


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
) -> Question:
    if not len(objects):
        return Question(name, level, objects, np.empty(0), None, None, None, family)
    old, new = before[objects], after[objects]
    mean = float(old.mean())
    return Question(name, level, objects, new - old, -margin.below(mean), mean, float(new.mean()), family)


def _floor(name: str, level: Level, after: Floats, floor: float) -> Question:
    objects = np.flatnonzero(~np.isnan(after))
    mean = float(after[objects].mean()) if len(objects) else None
    threshold = floor if len(objects) else None
    return Question(f"{name} (floor)", level, objects, after[objects], threshold, None, mean)
