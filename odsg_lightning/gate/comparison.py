"""Compares two records: object by object, and asks of each mean whether it fell by more than its margin."""

import math
from collections.abc import Iterator
from dataclasses import replace

from odsg_lightning.gate.checks import BY_CATEGORY, Check, category_checks, overall_checks
from odsg_lightning.gate.collapse import collapse_result
from odsg_lightning.gate.comparable import differences, without_values
from odsg_lightning.gate.config import COLLAPSED, GateConfig
from odsg_lightning.gate.judging import judged
from odsg_lightning.gate.resampling import Floats
from odsg_lightning.gate.result import SHOWN, ChangedObject, CheckResult, GateResult, overall
from odsg_lightning.gate.values import ComparedValues, check_values, compared_values, image_index
from odsg_lightning.records.record import AuditRecord, ObjectRow

FEW_IMAGES = 16
"""With fewer images, real regressions are often overlooked: ``examples/benchmarks/gate_power.py``."""


def compare(
    baseline: AuditRecord, candidate: AuditRecord, config: GateConfig | None = None, *, ignore_seed: bool = False
) -> GateResult:
    """Judge the candidate against the baseline.

    Each check but ``collapsed`` (:mod:`odsg_lightning.gate.collapse`) is the mean of ``candidate - baseline`` over the
    objects that have a value in both records, with a bootstrap interval over whole images. It fails if the interval
    lies below ``-margin``, passes if it lies above it, and is inconclusive otherwise. With fewer than five images it
    never fails, and passes only if no image's mean fell by more than the margin. A check of a category fails only under
    Benjamini and Hochberg's control of false discoveries.

    Of a baseline that holds several accepted audits, an object's value is the mean of theirs, and the margin begins at
    the lowest of their means.

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
    first, *further, candidate = (_in_order_of(baseline, r) for r in (baseline, *baseline.further, candidate))
    values, images = compared_values([first, *further], candidate), image_index(baseline)
    checks = overall_checks(values, check_values(candidate), config)
    of_categories, skipped = category_checks(values, baseline, config)
    results = judged([*checks, *of_categories], images, config)
    if config.checks[COLLAPSED].level != "off":
        results.insert(len(checks), collapse_result(values, images, config))
    without_data = [result.name for result in results if result.level == "error" and result.verdict == "no data"]
    n_images = int(images.max()) + 1
    ranked_by = _ranked_by(results, values)
    fallen, newly_missed, newly_undefined = _changed_objects(baseline, candidate, values, ranked_by)
    return GateResult(
        verdict=overall(tuple(results)),
        reasons=without_values(baseline, candidate, without_data),
        warnings=tuple(_warnings(baseline, candidate, config, n_images, of_categories)),
        checks=tuple(results),
        skipped_checks=tuple(skipped),
        n_accepted=1 + len(further),
        n_images=n_images,
        n_objects=len(images),
        ranked_by=ranked_by,
        worst=tuple(fallen[:SHOWN]),
        newly_missed=tuple(newly_missed),
        newly_undefined=tuple(newly_undefined),
    )


def few_images_warning(n_images: int) -> Iterator[str]:
    """Yield a warning if the audit set is too small to rely on."""
    if n_images < FEW_IMAGES:
        yield (
            f"The audit set has only {n_images} images: with fewer than {FEW_IMAGES}, real regressions are often "
            "overlooked and intervals are too narrow."
        )


def _in_order_of(baseline: AuditRecord, record: AuditRecord) -> AuditRecord:
    return replace(record, objects=tuple(record.by_key[row.key] for row in baseline.objects))


def _ranked_by(results: list[CheckResult], values: ComparedValues) -> str:
    """Return the value by which objects are named: of the first check that failed, else of the first with values."""
    failed = [
        result.name
        for level in ("error", "warn")
        for result in results
        if (result.level, result.verdict) == (level, "fail")
    ]
    shares = [name for name in (*failed, *BY_CATEGORY) if name.startswith(("occlusion/", "iof/"))]
    return next((name for name in shares if name in values.before and len(values.paired(name))), "iof/object")


def _changed_objects(
    baseline: AuditRecord, candidate: AuditRecord, values: ComparedValues, ranked_by: str
) -> tuple[list[ChangedObject], list[ChangedObject], list[ChangedObject]]:
    """Return the objects of which a value fell, the largest fall first, and those newly missed or undefined."""
    fallen, missed, undefined = [], [], []
    each = check_values(baseline)[ranked_by], check_values(candidate)[ranked_by]
    in_common = values.before[ranked_by], values.after[ranked_by]
    for index, (before, after) in enumerate(zip(baseline.objects, candidate.objects, strict=True)):

        def changed(old: Floats, new: Floats, index: int = index, before: ObjectRow = before) -> ChangedObject:
            sides = (None if math.isnan(side[index]) else float(side[index]) for side in (old, new))
            return ChangedObject(*before.key, before.file_name, before.category, *sides)

        if after.missed and not before.missed:
            missed.append(changed(*each))
        if not (before.explained and after.explained) or after.missed != before.missed:
            continue
        if set(after.undefined) - set(before.undefined):
            undefined.append(changed(*each))
        fall = float(in_common[1][index] - in_common[0][index])
        if fall < 0:
            fallen.append((fall, before.key, changed(*in_common)))
    return [changed for _, _, changed in sorted(fallen, key=lambda entry: entry[:2])], missed, undefined


def _warnings(
    baseline: AuditRecord, candidate: AuditRecord, config: GateConfig, n_images: int, of_categories: list[Check]
) -> Iterator[str]:
    yield from few_images_warning(n_images)
    if not config.decides:
        yield "No check of level error has a floor or a margin below 1: nothing can fail this gate."
    categories = max(sum(check.family == family for check in of_categories) for family in BY_CATEGORY)
    if categories > config.tail * (config.resamples + 1):
        yield (
            f"With {categories} categories and {config.resamples} resamples a single category cannot fail: set "
            f"resamples to {int(categories / config.tail)} or more."
        )
    seeds = baseline.fingerprint.get("seed"), candidate.fingerprint.get("seed")
    if seeds[0] != seeds[1]:
        yield f"The audits have different seeds ({seeds[0]} and {seeds[1]}): part of each change is their noise."
    checkpoint = candidate.provenance["checkpoint_sha256"]
    accepted = [record.provenance["checkpoint_sha256"] for record in (baseline, *baseline.further)]
    if checkpoint is not None and checkpoint in accepted:
        yield "Both records are of the same checkpoint."
