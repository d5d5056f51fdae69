"""Margins from records that should pass each other: of one checkpoint under several seeds, or of honest retrainings."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from odsg_lightning.errors import BrokenInputError, UserInputError
from odsg_lightning.gate.comparable import differences
from odsg_lightning.gate.comparison import compare
from odsg_lightning.gate.config import CHECKS, COLLAPSED, DEFAULT_RULES, GateConfig, Margin
from odsg_lightning.gate.result import CheckResult
from odsg_lightning.gate.values import check_values
from odsg_lightning.records.means import mean_or_none
from odsg_lightning.records.record import AuditRecord

_SEED_HEADROOM = 1.5  # of the small noise of the seeds; trainings differ so much that it would hide regressions
_STEP, _LEAST = 0.005, 0.01
_LEAST_COLLAPSED = DEFAULT_RULES[COLLAPSED].margin.amount  # a few dozen images cannot show a share that is smaller


@dataclass(frozen=True, slots=True)
class Calibration:
    """The noise of one check.

    Attributes:
        check: its name; ``categories`` for the widest of all categories.
        sd: standard deviation of the records' means; None for ``categories`` and ``collapsed``, and without data.
        largest_drop: of the mean, from any record to any other; of ``collapsed``, the largest share of images.
        proposed: margin with which every pair passes, of one checkpoint times 1.5; None without data.
    """

    check: str
    sd: float | None
    largest_drop: float | None
    proposed: float | None


def calibrate(
    records: Mapping[str, AuditRecord], config: GateConfig | None = None, *, retrained: bool = False
) -> list[Calibration]:
    """Measure how much every check varies between records that should pass each other.

    Args:
        records: by the name of their file, at least two, better three and more. They are audits of one checkpoint under
            different seeds; or, ``retrained``, of several checkpoints.
        config: confidence, resamples and the size of categories; None for the defaults.
        retrained: whether the checkpoints are the results of trainings that you would accept in each other's place.

    Raises:
        UserInputError: there are fewer than two.
        BrokenInputError: they differ in more than the seed; or they are not of one checkpoint under different seeds;
            or, ``retrained``, two are of the same checkpoint.
    """
    if len(records) < 2:
        raise UserInputError(f"Expected at least two records, better three, but got {len(records)}.")
    _check_alike(records, retrained)
    config = config or GateConfig()
    everything = replace(
        config,
        checks={name: replace(rule, floor=None, level="warn") for name, rule in config.checks.items()},
        categories=replace(config.categories, level="warn"),
    )
    results = [compare(*pair, everything, ignore_seed=True).checks for pair in permutations(records.values(), 2)]
    means = [{name: mean_or_none(values) for name, values in check_values(r).items()} for r in records.values()]
    headroom = 1.0 if retrained else _SEED_HEADROOM
    rows = []
    for name in CHECKS:
        known = [mean for mean in (of_record.get(name) for of_record in means) if mean is not None]
        sd = float(np.std(known, ddof=1)) if len(known) > 1 else None
        rows.append(_row(name, sd, [check for checks in results for check in checks if check.name == name], headroom))
    categories = [check for checks in results for check in checks if check.p is not None]
    return [*rows, _row("categories", None, categories, headroom)] if categories else rows


def calibrated_config(rows: Sequence[Calibration], config: GateConfig | None = None) -> GateConfig:
    """Return the configuration with the proposed margins; a check without one keeps its own."""
    config = config or GateConfig()
    margins = {row.check: Margin(row.proposed) for row in rows if row.proposed is not None}
    return replace(
        config,
        checks={name: replace(rule, margin=margins.get(name, rule.margin)) for name, rule in config.checks.items()},
        categories=replace(config.categories, margin=margins.get("categories", config.categories.margin)),
    )


def _check_alike(records: Mapping[str, AuditRecord], retrained: bool) -> None:
    names = list(records)
    first = records[names[0]]
    checkpoints = [records[name].provenance["checkpoint_sha256"] for name in names]
    for position, (name, checkpoint) in enumerate(zip(names, checkpoints, strict=True)):
        got = None
        if checkpoint is None:
            got = "says of none what it is"
        elif retrained and checkpoint in checkpoints[:position]:
            got = f"is of the same one as {names[checkpoints.index(checkpoint)]}"
        elif not retrained and checkpoint != checkpoints[0]:
            got = f"is of another than {names[0]}: --retrained measures how much trainings differ"
        if got:
            expected = "a checkpoint of its own for each" if retrained else "one checkpoint, with several --seed"
            raise BrokenInputError(f"Expected audits made by `odsg audit` of {expected}, but {name} {got}.")
        reasons = differences(first, records[name], ignore_seed=True)
        if reasons:
            raise BrokenInputError(f"Expected records that differ in the seed only, but {name}: {reasons[0]}")
    if retrained:
        return
    seeds = [record.fingerprint["seed"] for record in records.values()]
    if len(set(seeds)) < len(seeds):
        raise BrokenInputError(f"Expected each record to have a seed of its own, but got {sorted(seeds)}.")


def _row(name: str, sd: float | None, checks: Sequence[CheckResult], headroom: float) -> Calibration:
    known = [check for check in checks if check.change is not None]
    if not known:
        return Calibration(name, sd, None, None)
    drops = [-(check.change or 0.0) if check.higher_is_better else check.change or 0.0 for check in known]
    if name == COLLAPSED:  # passes by its share, not by its interval
        needed, least = max(drops), _LEAST_COLLAPSED
    else:
        needed, least = max(-check.lower for check in known if check.lower is not None), _LEAST
    proposed = min(1.0, max(least, _rounded_up(max(0.0, needed) * headroom)))
    return Calibration(name, sd, max(0.0, *drops), proposed)


def _rounded_up(margin: float) -> float:
    return round(math.ceil(margin / _STEP - 1e-9) * _STEP, 3)
