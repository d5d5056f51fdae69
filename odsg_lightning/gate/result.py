"""What the gate found, with everything that its outputs show."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Verdict = Literal["pass", "fail", "inconclusive", "no data"]
Overall = Literal["pass", "regression", "inconclusive", "not comparable"]

SHOWN = 5
"""Objects of each kind that are named; there may be thousands."""

EXIT_CODES: Mapping[Overall, int] = {"pass": 0, "regression": 1, "inconclusive": 0, "not comparable": 3}


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check.

    Attributes:
        name: such as ``iof/x_min/edge``, ``recall[cat]`` or ``iof/object (floor)``.
        level: ``error`` or ``warn``.
        verdict: ``fail`` if the interval lies below the threshold, ``pass`` if above it, ``no data`` if no object has
            a value, ``inconclusive`` otherwise.
        baseline: the baseline's mean over the compared objects; None for a floor, and without data.
        candidate: the candidate's.
        lower: bound of the interval of ``candidate - baseline``; of the candidate's mean for a floor. With fewer than
            five images the two bounds are the range of the images' means. None without data.
        upper: the other bound.
        threshold: the least change that is allowed (minus the margin), or the floor. None without data.
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
    def change(self) -> float | None:
        """Candidate minus baseline."""
        return None if self.baseline is None or self.candidate is None else self.candidate - self.baseline

    @property
    def sentence(self) -> str:
        """The check in words."""
        if self.verdict == "no data":
            name = self.name.removesuffix(" (floor)")
            return f"no object has a value to compare; `checks: {{{name}: {{level: off}}}}` switches the check off"
        interval = f"{self.lower:+.3f} to {self.upper:+.3f}"
        objects = f"{self.n_objects} objects in {self.n_images} images"
        if self.is_floor:
            return f"mean {self.candidate:.3f} ({interval}), floor {self.threshold:.3f}, {objects}"
        change = f"from {self.baseline:.3f} to {self.candidate:.3f}, change {self.change:+.3f} ({interval})"
        return f"{change}, margin {0 - (self.threshold or 0):.3f}, {objects}"


@dataclass(frozen=True, slots=True)
class SkippedCheck:
    """A check of a category that was not made."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ChangedObject:
    """An object that fell, with its ``iof/object`` in both records; None where it was missed or all is undefined."""

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
            one has no data or the records do not go together, ``inconclusive`` if one is that, ``pass``.
        reasons: why it is ``not comparable``, and which checks of level error have no data.
        warnings: what to know in any case.
        checks: those that were made; floors behind their check, categories last.
        skipped_checks: those of categories with too few objects.
        n_images: images of the audit set.
        n_objects: objects of the audit set.
        worst: the largest falls of ``iof/object``, at most five.
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
    n_images: int = 0
    n_objects: int = 0
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
