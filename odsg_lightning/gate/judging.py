"""The verdict on each check: where the interval of its mean lies."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from odsg_lightning.gate.checks import BY_CATEGORY, Check
from odsg_lightning.gate.config import GateConfig
from odsg_lightning.gate.resampling import MIN_IMAGES, Floats, Resamples, resample_images
from odsg_lightning.gate.result import CheckResult, Verdict

_TOUCHING = 1e-9  # values have six digits: a fall by exactly the margin is within it, however its sum was rounded
_COLUMNS = 256  # resampled at a time, so that memory does not grow with the number of categories


def judged(checks: list[Check], images: NDArray[np.intp], config: GateConfig) -> list[CheckResult]:
    """Return the result of each check, those of categories with control of false discoveries.

    Args:
        checks: what to judge.
        images: ``[n_objects]`` the image of each object, numbered from 0.
        config: confidence, resamples and their seed.
    """
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
