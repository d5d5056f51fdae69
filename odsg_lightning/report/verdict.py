"""The gate's answer as the page begins with it: the same numbers as those of ``odsg gate``."""

from collections.abc import Sequence
from dataclasses import dataclass

from odsg_lightning.gate import CheckResult, GateConfig, GateResult, compare_files
from odsg_lightning.report.audits import Audit
from odsg_lightning.report.changes import DASH, Change, judged, share, signed

_DIGITS = 3
_DECIDES = {"regression": "fail", "not comparable": "no data", "inconclusive": "inconclusive", "pass": "pass"}
_WORDS = {
    "regression": ("Regression", "\N{HEAVY BALLOT X}", "The candidate is worse than the accepted baseline."),
    "not comparable": ("Not comparable, so not passed", "\N{NO ENTRY}", "The comparison could not be made."),
    "inconclusive": (
        "Inconclusive",
        "?",
        "These images do not tell whether the candidate is worse; more images do. It passes unless the gate is strict.",
    ),
    "pass": ("Passed", "\N{HEAVY CHECK MARK}", "The candidate is not worse than the accepted baseline."),
}


@dataclass(frozen=True)
class Bar:
    """An interval as a picture: places from 0, left, to 100.

    Attributes:
        lower: bound of the interval.
        upper: the other one.
        point: the change; or the candidate's value, where it alone is judged.
        threshold: the limit.
        zero: no change; None where the candidate alone is judged.
    """

    lower: float
    upper: float
    point: float
    threshold: float
    zero: float | None


@dataclass(frozen=True)
class ShownCheck:
    """One check.

    Attributes:
        check: what the gate found.
        baseline: as text, like the others; a dash for none.
        candidate: the candidate's.
        change: between the two, with its judgement.
        interval: of the change; of the candidate's value, where it alone is judged.
        limit: of the change, or of that value.
        bar: the interval as a picture; None without data.
    """

    check: CheckResult
    baseline: str
    candidate: str
    change: Change
    interval: str
    limit: str
    bar: Bar | None


@dataclass(frozen=True)
class Verdict:
    """The gate's answer.

    Attributes:
        result: as the gate gave it.
        word: the verdict in a word or two.
        symbol: a sign that says the same.
        meaning: the verdict in a sentence.
        deciding: the checks of level error that it rests on.
        errors: all checks of level error.
        warnings: the others.
    """

    result: GateResult
    word: str
    symbol: str
    meaning: str
    deciding: list[ShownCheck]
    errors: list[ShownCheck]
    warnings: list[ShownCheck]


def can_be_judged(audits: Sequence[Audit]) -> bool:
    """Return whether the first record is an accepted baseline and the last one is none, so that the gate has a say."""
    return len(audits) > 1 and audits[0].record.is_baseline and not audits[-1].record.is_baseline


def verdict_on(
    audits: Sequence[Audit], config: GateConfig | None = None, *, ignore_seed: bool = False
) -> Verdict | None:
    """Return the gate's answer on the last record's file against the first's; None if :func:`can_be_judged` says no.

    Args:
        audits: the accepted baseline first, the candidate last.
        config: of the gate; None for its defaults.
        ignore_seed: compare audits with different seeds of the noise, too.
    """
    if not can_be_judged(audits):
        return None
    result = compare_files(audits[0].path, audits[-1].path, config, ignore_seed=ignore_seed)
    checks = [_shown(check) for check in result.checks]
    errors = [shown for shown in checks if shown.check.level == "error"]
    deciding = [shown for shown in errors if shown.check.verdict == _DECIDES[result.verdict]]
    warnings = [shown for shown in checks if shown.check.level != "error"]
    return Verdict(result, *_WORDS[result.verdict], deciding, errors, warnings)


def _shown(check: CheckResult) -> ShownCheck:
    text = share if _is_absolute(check) else signed
    known = check.lower is not None and check.upper is not None
    return ShownCheck(
        check,
        share(check.baseline, _DIGITS),
        share(check.candidate, _DIGITS),
        judged(check.change, "higher" if check.higher_is_better else "lower", _DIGITS),
        f"{text(check.lower, _DIGITS)} to {text(check.upper, _DIGITS)}" if known else DASH,
        text(check.threshold, _DIGITS),
        _bar(check),
    )


def _is_absolute(check: CheckResult) -> bool:
    """Whether the interval and the limit are of the candidate's own value, not of its change."""
    return check.is_floor or not check.higher_is_better


def _bar(check: CheckResult) -> Bar | None:
    point = check.candidate if _is_absolute(check) else check.change
    if check.lower is None or check.upper is None or check.threshold is None or point is None:
        return None
    values = [check.lower, check.upper, point, check.threshold, *([] if _is_absolute(check) else [0.0])]
    low, high = min(values), max(values)
    reach = max(high - low, 0.02)  # so that a tiny change does not look like a large one

    def place(value: float) -> float:
        return round(50 + 92 * (value - (low + high) / 2) / reach, 1)

    lower, upper, point, threshold, *zero = (place(value) for value in values)
    return Bar(lower, upper, point, threshold, zero[0] if zero else None)
