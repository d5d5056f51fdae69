"""What the gate checks, and how much worse a candidate may be."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from odsg_lightning.errors import UserInputError
from odsg_lightning.names import IOF_NAMES, OCCLUSION_NAMES

Level = Literal["error", "warn", "off"]

COLLAPSED = "collapsed"

CHECKS = (
    *(f"occlusion/{name}" for name in OCCLUSION_NAMES),
    "iof/near",
    "defined",
    COLLAPSED,
    "recall",
    "iof/object",
    *(f"iof/{name}" for name in IOF_NAMES),
    "match_rate",
)
"""Every check over all objects. ``iof/near`` and ``iof/object`` are means of an object's box maps, those defined in
both audits; ``defined`` is the share of a detected object's five maps with a value; ``collapsed``, the only one of
which less is better, the share of images of which :mod:`odsg_lightning.gate.collapse` says so."""


def _check_level(level: object) -> None:
    if level not in get_args(Level):
        raise UserInputError(f"Expected `level` to be one of {', '.join(get_args(Level))}, but got {level!r}.")


def _check_integer(name: str, value: object, least: int, most: int | None = None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most is not None and value > most):
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise UserInputError(f"Expected `{name}` to be an integer {limits}, but got {value!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


@dataclass(frozen=True, slots=True)
class Margin:
    """How far a mean may fall.

    Attributes:
        amount: 0 to 1, in the unit of the mean; or, if relative, a share of the baseline's mean.
        relative: which of the two.

    Example:
        >>> Margin(0.2, relative=True).below(0.5), str(Margin(0.2, relative=True))
        (0.1, '20%')
    """

    amount: float
    relative: bool = False

    def __post_init__(self) -> None:
        """Refuse amounts out of range.

        Raises:
            UserInputError: says which are in range.
        """
        if not _is_number(self.amount) or not 0 <= self.amount <= 1:
            raise UserInputError(f"Expected a margin from 0 to 1, or from 0% to 100%, but got {self.amount!r}.")

    def below(self, mean: float) -> float:
        """Return the margin in the unit of the mean."""
        return self.amount * mean if self.relative else self.amount

    def __str__(self) -> str:
        """As in ``gate.yaml``."""
        return f"{self.amount * 100:.10g}%" if self.relative else f"{self.amount:.10g}"


@dataclass(frozen=True, slots=True)
class Rule:
    """One check.

    Attributes:
        margin: how far the mean may fall below the baseline's, or the lowest one's of several accepted audits; of
            ``collapsed``, the largest share of images that may have.
        floor: what the candidate's mean must reach in any case, 0 to 1; None for nothing.
        level: only ``error`` decides the exit code.
    """

    margin: Margin = Margin(0.05)
    floor: float | None = None
    level: Level = "error"

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UserInputError: names the value.
        """
        _check_level(self.level)
        if self.floor is not None and (not _is_number(self.floor) or not 0 <= self.floor <= 1):
            raise UserInputError(f"Expected a floor from 0 to 1, or null, but got {self.floor!r}.")


@dataclass(frozen=True, slots=True)
class CategoryRule:
    """Occlusion, ``iof/near`` and ``recall`` of each category by itself.

    Attributes:
        margin: how far a category's mean may fall.
        min_objects: a category with fewer compared objects is left out.
        level: as for :class:`Rule`.
    """

    margin: Margin = Margin(0.10)
    min_objects: int = 20
    level: Level = "warn"

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UserInputError: names the value.
        """
        _check_level(self.level)
        _check_integer("min_objects", self.min_objects, 1)


DEFAULT_RULES: Mapping[str, Rule] = {
    "occlusion/sufficiency": Rule(Margin(0.05)),
    "occlusion/necessity": Rule(Margin(0.05)),
    "defined": Rule(Margin(0.10)),
    COLLAPSED: Rule(Margin(0.05)),
    # Two honest trainings differ more in where their maps lie than in what they need: docs/evidence.md.
    "iof/near": Rule(Margin(0.10), level="warn"),
    # The paper's IOF depends on how large the foreground is against the object, recall on how well it detects.
    "recall": Rule(Margin(0.05), level="warn"),
    "iof/object": Rule(Margin(0.05), level="warn"),
    "iof/*/near": Rule(Margin(0.10), level="warn"),
    "iof/*/object": Rule(Margin(0.05), level="warn"),
    "iof/*/edge": Rule(Margin(0.20, relative=True), level="warn"),
    # Less of a map on the middle or on the far third is not worse by itself: what leaves the object is seen above.
    "iof/*/middle": Rule(Margin(0.20, relative=True), level="off"),
    "iof/*/opposite": Rule(Margin(0.20, relative=True), level="off"),
    "match_rate": Rule(Margin(0.05), level="warn"),
}
"""By pattern; the same as ``configs/gate/default.yaml``."""

DEFAULT_FLOORS: Mapping[str, float] = {
    "occlusion/sufficiency": 0.5,
    "occlusion/necessity": 0.5,
    "iof/near": 0.8,
    "defined": 0.9,
}
"""What a candidate without a baseline is warned below; the same as ``configs/gate/default.yaml``."""


def _default_checks() -> dict[str, Rule]:
    return {
        name: next(rule for pattern, rule in DEFAULT_RULES.items() if fnmatchcase(name, pattern)) for name in CHECKS
    }


def _refuse_floor(name: str) -> None:
    if name == COLLAPSED:
        raise UserInputError(f"Expected no floor of `{COLLAPSED}`, which only a comparison with a baseline can tell.")


@dataclass(frozen=True)
class GateConfig:
    """What ``gate.yaml`` says.

    Attributes:
        confidence: of the two-sided interval of each mean, 0.5 to below 1.
        resamples: of the images.
        seed: of the resampling.
        checks: the rule of each of :data:`CHECKS`; one left out keeps its default.
        categories: the rule of the checks per category.
        no_baseline: floors of checks that a candidate is warned below when there is no baseline; a rule's own floor
            goes before it.
    """

    confidence: float = 0.95
    resamples: int = 9999
    seed: int = 0
    checks: Mapping[str, Rule] = field(default_factory=_default_checks)
    categories: CategoryRule = CategoryRule()
    no_baseline: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_FLOORS))

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UserInputError: names the value, its range, and what came.
        """
        if not _is_number(self.confidence) or not 0.5 <= self.confidence < 1:
            raise UserInputError(f"Expected `confidence` to be from 0.5 to below 1, but got {self.confidence!r}.")
        _check_integer("resamples", self.resamples, 99, 99_999)
        _check_integer("seed", self.seed, 0)
        if self.tail * (self.resamples + 1) < 1:
            raise UserInputError(
                f"Expected at least {math.ceil(1 / self.tail - 1e-9) - 1} `resamples` for a confidence of "
                f"{self.confidence:g}, but got {self.resamples}."
            )
        for name, given in (("checks", self.checks), ("no_baseline", self.no_baseline)):
            unknown = sorted(set(given) - set(CHECKS))
            if unknown:
                raise UserInputError(f"Expected `{name}` to be of {', '.join(CHECKS)}, but got {unknown[0]!r}.")
        for name, floor in self.no_baseline.items():
            Rule(floor=floor)  # refuses what is no floor
            _refuse_floor(name)
        object.__setattr__(self, "checks", _default_checks() | dict(self.checks))
        if self.checks[COLLAPSED].floor is not None:
            _refuse_floor(COLLAPSED)
        if self.checks[COLLAPSED].margin.relative:
            raise UserInputError(
                f"Expected the margin of `{COLLAPSED}` to be a number, the share of images that may have collapsed, "
                f"but got {self.checks[COLLAPSED].margin}: of the baseline none has."
            )
        if all(level == "off" for level in self._levels):
            raise UserInputError("Expected at least one check of level error or warn, but all are off.")

    @property
    def tail(self) -> float:
        """Share of resamples above the interval, and below it."""
        return round((1 - self.confidence) / 2, 12)

    @property
    def decides(self) -> bool:
        """Whether any check can fail the gate: no mean falls by more than 1, none lies below 0."""
        return any(
            rule.level == "error" and (rule.margin.amount < 1 or bool(rule.floor)) for rule in self.checks.values()
        ) or (self.categories.level == "error" and self.categories.margin.amount < 1)

    @property
    def floors(self) -> dict[str, float]:
        """What a candidate without a baseline is warned below, by check."""
        floors = {name: self.no_baseline.get(name) if r.floor is None else r.floor for name, r in self.checks.items()}
        return {name: floor for name, floor in floors.items() if floor is not None and self.checks[name].level != "off"}

    @property
    def _levels(self) -> list[Level]:
        return [*(rule.level for rule in self.checks.values()), self.categories.level]
