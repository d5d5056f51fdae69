"""Compares two records: object by object, and asks of each mean whether it fell by more than its margin."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from odsg_lightning.gate.checks import BY_CATEGORY, Check, build_checks, differences, image_index
from odsg_lightning.gate.config import GateConfig
from odsg_lightning.gate.resampling import MIN_IMAGES, Floats, Resamples, resample_images
from odsg_lightning.gate.result import SHOWN, ChangedObject, CheckResult, GateResult, Verdict, overall
from odsg_lightning.records.record import AuditRecord

FEW_IMAGES = 16
"""With fewer images, real regressions are often overlooked: ``examples/benchmarks/gate_power.py``."""

_TOUCHING = 1e-9  # values have six digits: a fall by exactly the margin is within it, however its sum was rounded
_COLUMNS = 256  # resampled at a time, so that memory does not grow with the number of categories


def compare(
    baseline: AuditRecord, candidate: AuditRecord, config: GateConfig | None = None, *, ignore_seed: bool = False
) -> GateResult:
    """Judge the candidate against the baseline.

    Each check is the mean of ``candidate - baseline`` over the objects that have a value in both records, with a
    bootstrap interval over whole images. It fails if the interval lies below ``-margin``, passes if it lies above it,
    and is inconclusive otherwise. With fewer than five images it never fails, and passes only if no image's mean fell
    by more than the margin. A check of a category fails only under Benjamini and Hochberg's control of false
    discoveries.

    Args:
        baseline: the accepted record.
        candidate: a record with the same fingerprint and the same objects; otherwise the verdict is ``not comparable``.
        config: margins, floors and levels; None for the defaults.
        ignore_seed: compare audits with different seeds of the noise, too.
    """
    config = config or GateConfig()
    reasons = differences(baseline, candidate, ignore_seed=ignore_seed)
    if reasons:
        return GateResult("not comparable", reasons=reasons)
    candidate = replace(candidate, objects=tuple(candidate.by_key[row.key] for row in baseline.objects))
    checks, skipped = build_checks(baseline, candidate, config)
    images = image_index(baseline)
    results = tuple(_results(checks, images, config))
    without_data = [result for result in results if result.level == "error" and result.verdict == "no data"]
    n_images = int(images.max()) + 1
    fallen, newly_missed, newly_undefined = _changed_objects(baseline, candidate)
    return GateResult(
        verdict=overall(results),
        reasons=tuple(f"{result.name}: {result.sentence}." for result in without_data),
        warnings=tuple(_warnings(baseline, candidate, config, n_images, checks)),
        checks=results,
        skipped_checks=tuple(skipped),
        n_images=n_images,
        n_objects=len(images),
        worst=tuple(fallen[:SHOWN]),
        newly_missed=tuple(newly_missed),
        newly_undefined=tuple(newly_undefined),
    )


def _changed_objects(
    baseline: AuditRecord, candidate: AuditRecord
) -> tuple[list[ChangedObject], list[ChangedObject], list[ChangedObject]]:
    """Return the objects whose ``iof/object`` fell, the largest fall first, and those newly missed or undefined."""
    fallen, missed, undefined = [], [], []
    for before in baseline.objects:
        after = candidate.by_key[before.key]
        if before.missed:
            continue
        changed = ChangedObject(*before.key, before.file_name, before.category, before.object_iof, after.object_iof)
        if after.missed:
            missed.append(changed)
            continue
        if set(after.undefined) - set(before.undefined):
            undefined.append(changed)
        if changed.baseline is not None and changed.candidate is not None and changed.candidate < changed.baseline:
            fallen.append((changed.candidate - changed.baseline, changed.key, changed))
    return [changed for _, _, changed in sorted(fallen, key=lambda entry: entry[:2])], missed, undefined


def _results(checks: list[Check], images: NDArray[np.intp], config: GateConfig) -> list[CheckResult]:
    results: list[CheckResult] = []
    for start in range(0, len(checks), _COLUMNS):
        results += _block_results(checks[start : start + _COLUMNS], images, config)
    for family in BY_CATEGORY:
        members = [index for index, check in enumerate(checks) if check.family == family]
        for index, p in zip(members, _adjusted([results[index].p for index in members]), strict=True):
            verdict = results[index].verdict
            if verdict == "fail" and p > config.tail:
                verdict = "inconclusive"
            results[index] = replace(results[index], verdict=verdict, p=p)
    return results


def _block_results(checks: list[Check], images: NDArray[np.intp], config: GateConfig) -> Iterator[CheckResult]:
    total = int(images.max()) + 1
    sums, counts = np.zeros((2, total, len(checks)))
    for column, check in enumerate(checks):
        image_of = images[check.objects]
        sums[:, column] = np.bincount(image_of, check.values, total)
        counts[:, column] = np.bincount(image_of, minlength=total)
    resamples = resample_images(sums, counts, config.resamples, config.seed, config.tail)
    for column, check in enumerate(checks):
        yield _result(check, sums[:, column], counts[:, column], resamples, column)


def _result(check: Check, sums: Floats, counts: Floats, resamples: Resamples, column: int) -> CheckResult:
    """Judge one mean, from the sum of its values in each image ``[images]`` and the number of objects there."""
    lower = upper = p = None
    has_data = counts > 0
    n_images = int(has_data.sum())
    verdict: Verdict
    if check.threshold is None:
        verdict = "no data"
    else:
        threshold = check.threshold - _TOUCHING
        if n_images < MIN_IMAGES:
            image_means = sums[has_data] / counts[has_data]
            lower, upper = float(image_means.min()), float(image_means.max())
        else:
            lower, upper = resamples.interval(column)
            p = resamples.p_below(column, threshold) if check.family else None
        fails = upper < threshold and n_images >= MIN_IMAGES
        verdict = "fail" if fails else "pass" if lower >= threshold else "inconclusive"
    return CheckResult(
        name=check.name,
        level="error" if check.level == "error" else "warn",
        verdict=verdict,
        baseline=check.baseline,
        candidate=check.candidate,
        lower=lower,
        upper=upper,
        threshold=check.threshold,
        n_objects=len(check.objects),
        n_images=n_images,
        p=p,
    )


def _adjusted(p_values: list[float | None]) -> list[float]:
    if not p_values:
        return []
    from scipy.stats import false_discovery_control  # most of a second, which only categories need

    adjusted: list[float] = false_discovery_control([1.0 if p is None else p for p in p_values]).tolist()
    return adjusted


def _warnings(
    baseline: AuditRecord, candidate: AuditRecord, config: GateConfig, n_images: int, checks: list[Check]
) -> Iterator[str]:
    if n_images < FEW_IMAGES:
        yield (
            f"The audit set has only {n_images} images: with fewer than {FEW_IMAGES}, real regressions are often "
            "overlooked and intervals are too narrow."
        )
    if not config.decides:
        yield "No check has level error: nothing can fail this gate."
    categories = max(sum(check.family == family for check in checks) for family in BY_CATEGORY)
    if categories > config.tail * (config.resamples + 1):
        yield (
            f"With {categories} categories and {config.resamples} resamples a single category cannot fail: set "
            f"resamples to {int(categories / config.tail)} or more."
        )
    seeds = baseline.fingerprint.get("seed"), candidate.fingerprint.get("seed")
    if seeds[0] != seeds[1]:
        yield f"The audits have different seeds ({seeds[0]} and {seeds[1]}): part of each change is their noise."
    checkpoint = baseline.provenance["checkpoint_sha256"]
    if checkpoint is not None and checkpoint == candidate.provenance["checkpoint_sha256"]:
        yield "Both records are of the same checkpoint."
