"""Compares two records: object by object, and asks of each mean whether it fell by more than its margin."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from odsg_lightning.audit.gate.comparable import differences
from odsg_lightning.audit.gate.config import GateConfig
from odsg_lightning.audit.gate.questions import BY_CATEGORY, Question, ask
from odsg_lightning.audit.gate.resampling import MIN_IMAGES, Resamples, resample_images
from odsg_lightning.audit.gate.result import CheckResult, GateResult, Verdict, overall
from odsg_lightning.audit.gate.values import Floats, image_index
from odsg_lightning.audit.gate.worst import changed_objects
from odsg_lightning.audit.record import AuditRecord

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
    and is inconclusive else. With fewer than five images it never fails, and passes only if no image's mean fell by
    more than the margin. A check of a category fails only under Benjamini and Hochberg's control of false discoveries.

    Args:
        baseline: the accepted record.
        candidate: a record with the same fingerprint and the same objects; else the verdict is ``not comparable``.
        config: margins, floors and levels; None for the defaults.
        ignore_seed: compare audits with different seeds of the noise, too.
    """
    config = config or GateConfig()
    reasons = differences(baseline, candidate, ignore_seed=ignore_seed)
    if reasons:
        return GateResult("not comparable", reasons=reasons)
    candidate = replace(candidate, objects=tuple(candidate.by_key[row.key] for row in baseline.objects))
    questions, left_out = ask(baseline, candidate, config)
    images = image_index(baseline)
    checks = tuple(_answers(questions, images, config))
    verdict = overall(checks)
    without_data = [check for check in checks if check.level == "error" and check.verdict == "no data"]
    n_images = int(images.max()) + 1
    return GateResult(
        verdict=verdict,
        reasons=tuple(f"{check.name}: {check.sentence}." for check in without_data),
        warnings=tuple(_warnings(baseline, candidate, config, n_images, questions)),
        checks=checks,
        left_out=tuple(left_out),
        n_images=n_images,
        n_objects=len(images),
        **changed_objects(baseline, candidate),
    )


def _answers(questions: list[Question], images: NDArray[np.intp], config: GateConfig) -> list[CheckResult]:
    answers: list[CheckResult] = []
    for start in range(0, len(questions), _COLUMNS):
        answers += _answer_block(questions[start : start + _COLUMNS], images, config)
    for family in BY_CATEGORY:
        members = [index for index, question in enumerate(questions) if question.family == family]
        for index, p in zip(members, _adjusted([answers[index].p for index in members]), strict=True):
            verdict = answers[index].verdict
            if verdict == "fail" and p > config.tail:
                verdict = "inconclusive"
            answers[index] = replace(answers[index], verdict=verdict, p=p)
    return answers


def _answer_block(questions: list[Question], images: NDArray[np.intp], config: GateConfig) -> Iterator[CheckResult]:
    total = int(images.max()) + 1
    sums, counts = np.zeros((2, total, len(questions)))
    for column, question in enumerate(questions):
        image_of = images[question.objects]
        sums[:, column] = np.bincount(image_of, question.values, total)
        counts[:, column] = np.bincount(image_of, minlength=total)
    resamples = resample_images(sums, counts, config.resamples, config.seed, config.tail)
    for column, question in enumerate(questions):
        yield _answer(question, sums[:, column], counts[:, column], resamples, column)


def _answer(question: Question, sums: Floats, counts: Floats, resamples: Resamples, column: int) -> CheckResult:
    """Judge one mean, from the sum of its values in each image ``[images]`` and the number of objects there."""
    lower = upper = p = None
    has_data = counts > 0
    n_images = int(has_data.sum())
    verdict: Verdict
    if question.threshold is None:
        verdict = "no data"
    else:
        threshold = question.threshold - _TOUCHING
        if n_images < MIN_IMAGES:
            image_means = sums[has_data] / counts[has_data]
            lower, upper = float(image_means.min()), float(image_means.max())
        else:
            lower, upper = resamples.interval(column)
            p = resamples.p_below(column, threshold) if question.family else None
        fails = upper < threshold and n_images >= MIN_IMAGES
        verdict = "fail" if fails else "pass" if lower >= threshold else "inconclusive"
    return CheckResult(
        name=question.name,
        level="error" if question.level == "error" else "warn",
        verdict=verdict,
        baseline=question.baseline,
        candidate=question.candidate,
        lower=lower,
        upper=upper,
        threshold=question.threshold,
        n_objects=len(question.objects),
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
    baseline: AuditRecord, candidate: AuditRecord, config: GateConfig, n_images: int, questions: list[Question]
) -> Iterator[str]:
    if n_images < FEW_IMAGES:
        yield (
            f"The audit set has only {n_images} images: with fewer than {FEW_IMAGES}, real regressions are often "
            "overlooked and intervals are too narrow."
        )
    if not config.decides:
        yield "No check has level error: nothing can fail this gate."
    categories = max(sum(question.family == family for question in questions) for family in BY_CATEGORY)
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
