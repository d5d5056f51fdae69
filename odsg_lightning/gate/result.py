"""What the gate found, with everything that its outputs show."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from odsg_lightning.gate.config import COLLAPSED

Verdict = Literal["pass", "fail", "inconclusive", "no data"]
Overall = Literal["pass", "regression", "inconclusive", "not comparable", "no baseline"]

SHOWN = 5
"""Objects of each kind that are named; there may be thousands."""

EXIT_CODES: Mapping[Overall, int] = {
    "pass": 0,
    "regression": 1,
    "inconclusive": 0,
    "not comparable": 3,
    "no baseline": 0,
}


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check. Of ``collapsed`` less is better, of any other more.

    Attributes:
        name: such as ``iof/x_min/edge``, ``recall[cat]`` or ``iof/object (floor)``.
        level: ``error`` or ``warn``.
        verdict: ``fail`` if the interval lies on the wrong side of the threshold, ``pass`` if on the right one,
            ``no data`` if no object has a value, ``inconclusive`` otherwise;
            :func:`odsg_lightning.gate.collapse.collapse_result` says when ``collapsed`` passes.
        baseline: the baseline's mean over the compared objects, of several accepted audits the mean of theirs; None for
            a floor, and without data.
        candidate: the candidate's.
        lower: bound of the interval of ``candidate - baseline``; of the candidate's mean for a floor. With fewer than
            five images the two bounds are the range of the images' means. None without data.
        upper: the other bound.
        threshold: the least change that is allowed: minus the margin, and of several accepted audits minus how far the
            lowest lies below their mean; or the floor; of ``collapsed``, the largest share. None without data.
        n_objects: objects with a value.
        n_images: images with such an object.
        p: of a category: p-value of "below the threshold", adjusted over the categories.
    """

    name: str
    level: Literal["error", "warn"]
    verdict: Verdict
    baseline: float | None
    candidate: float | None
    lower: float | None
    upper: float | None
    threshold: float | None
    n_objects: int
    n_images: int
    p: float | None = None

    @property
    def is_floor(self) -> bool:
        """Whether the candidate alone is judged."""
        return self.name.endswith("(floor)")

    @property
    def higher_is_better(self) -> bool:
        """Whether a rise is good."""
        return self.name != COLLAPSED

    @property
    def change(self) -> float | None:
        """Candidate minus baseline."""
        return None if self.baseline is None or self.candidate is None else self.candidate - self.baseline

    @property
    def sentence(self) -> str:
        """The check in words."""
        if self.candidate is None or self.threshold is None:
            name = self.name.removesuffix(" (floor)")
            return f"no object has a value to compare; `checks: {{{name}: {{level: off}}}}` switches the check off"
        objects = f"{self.n_objects} objects in {self.n_images} images"
        if not self.higher_is_better:
            count = round(self.candidate * self.n_images)
            share = f"share {self.candidate:.3f} ({self.lower:.3f} to {self.upper:.3f}), at most {self.threshold:.3f}"
            return f"iof/near has fallen to less than half in {count} of {self.n_images} images: {share}"
        if self.is_floor:
            mean = f"mean {self.candidate:.3f} ({self.lower:.3f} to {self.upper:.3f})"
            return f"{mean}, floor {self.threshold:.3f}, {objects}"
        interval = f"{self.lower:+.3f} to {self.upper:+.3f}"
        change = f"from {self.baseline:.3f} to {self.candidate:.3f}, change {self.change:+.3f} ({interval})"
        return f"{change}, margin {0 - self.threshold:.3f}, {objects}"


@dataclass(frozen=True, slots=True)
class SkippedCheck:
    """A check of a category that was not made."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ChangedObject:
    """An object that fell, with the value :attr:`GateResult.ranked_by` in both records; None where it has none.

    Of an object whose IOF fell, it is the mean of the maps that are defined in both.
    """

    image_id: int
    annotation_id: int
    file_name: str
    category: str
    baseline: float | None
    candidate: float | None

    @property
    def key(self) -> tuple[int, int]:
        """Image id and annotation id."""
        return self.image_id, self.annotation_id


@dataclass(frozen=True)
class GateResult:
    """The gate's answer.

    Attributes:
        verdict: the first of these that applies: ``regression`` if a check of level error fails, ``not comparable`` if
            one has no data or the records do not go together, ``inconclusive`` if one is that, ``pass``; or
            ``no baseline`` if only the candidate's floors were looked at.
        reasons: why it is ``not comparable``, and which checks of level error have no data.
        warnings: what to know in any case.
        checks: those that were made; floors behind their check, categories last.
        skipped_checks: those of categories with too few objects.
        n_accepted: accepted audits that the candidate was compared with.
        n_images: images of the audit set.
        n_objects: objects of the audit set.
        ranked_by: the value whose falls are named: that of the first check that fails, level error before warn, or, if
            none does, of the first with a value.
        worst: the largest falls of that, at most five.
        newly_missed: detected in the baseline, missed in the candidate.
        newly_undefined: detected in both, with a map undefined that was defined in the baseline.
        sides: of ``baseline`` and ``candidate``: ``file``, ``checkpoint``, ``checkpoint_sha256``, ``git_commit``.
        strips: pictures of objects, baseline above candidate, by key.
    """

    verdict: Overall
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    checks: tuple[CheckResult, ...] = ()
    skipped_checks: tuple[SkippedCheck, ...] = ()
    n_accepted: int = 1
    n_images: int = 0
    n_objects: int = 0
    ranked_by: str = "iof/object"
    worst: tuple[ChangedObject, ...] = ()
    newly_missed: tuple[ChangedObject, ...] = ()
    newly_undefined: tuple[ChangedObject, ...] = ()
    sides: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    strips: Mapping[tuple[int, int], Path] = field(default_factory=dict)

    def exit_code(self, strict: bool = False) -> int:
        """Return the exit code; ``strict`` makes inconclusive a regression."""
        return 1 if strict and self.verdict == "inconclusive" else EXIT_CODES[self.verdict]


def overall(checks: tuple[CheckResult, ...]) -> Overall:
    """Return the verdict over checks, of which those of level error count."""
    verdicts = {check.verdict for check in checks if check.level == "error"}
    if "fail" in verdicts:
        return "regression"
    if "no data" in verdicts:
        return "not comparable"
    return "inconclusive" if "inconclusive" in verdicts else "pass"
