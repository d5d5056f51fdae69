"""What holds for any two records and any configuration."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.records import as_missed, as_undefined, make_record, with_rows
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from odsg_lightning.gate import CategoryRule, GateConfig, Margin, Rule, compare
from odsg_lightning.gate.config import CHECKS, COLLAPSED
from odsg_lightning.names import IOF_NAMES

SHARES = st.floats(0, 1).map(lambda share: round(share, 6))
MARGINS = st.builds(Margin, st.one_of(SHARES, st.sampled_from([0.0, 0.01, 0.05, 0.1])), st.booleans())
LEVELS = st.sampled_from(["error", "warn", "off"])


@st.composite
def records(draw):
    """Any audit of a world: values between wild and constant, some missed, some undefined."""
    n_images, per_image = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    names = ["cat", "dog", "a|b"][: draw(st.integers(1, 3))]
    record = make_record(n_images, per_image, categories=names, missed=0, seed=draw(st.integers(0, 3)))
    return record, changed(draw, record), changed(draw, record)


def changed(draw, record):
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    missed, undefined = draw(st.sampled_from([0, 0.2, 0.9])), draw(st.sampled_from([0, 0.2]))
    spread, shift = draw(st.sampled_from([0, 0.02, 0.3])), draw(st.sampled_from([-0.3, -0.05, 0, 0.06]))

    def change(row):
        if generator.random() < missed:
            return as_missed(row)
        values = np.clip(0.5 + shift + spread * generator.standard_normal(len(IOF_NAMES)), 0, 1).round(6)
        row = replace(
            row, iof=dict(zip(IOF_NAMES, values.tolist(), strict=True)), matched_samples=int(generator.integers(0, 21))
        )
        return as_undefined(row, ["x_min", "score"]) if generator.random() < undefined else row

    return with_rows(record, change)


@st.composite
def configs(draw, floors=True):
    rules = st.builds(Rule, MARGINS, st.one_of(st.none(), SHARES) if floors else st.none(), LEVELS)
    checks = {name: draw(rules) for name in draw(st.sets(st.sampled_from(CHECKS), max_size=4))}
    if COLLAPSED in checks:  # which knows neither floors nor shares of the baseline
        checks[COLLAPSED] = Rule(Margin(checks[COLLAPSED].margin.amount), level=checks[COLLAPSED].level)
    categories = draw(st.builds(CategoryRule, MARGINS, st.integers(1, 6), LEVELS))
    sizes = {"confidence": draw(st.sampled_from([0.5, 0.8, 0.95])), "resamples": draw(st.sampled_from([99, 200]))}
    return GateConfig(checks=checks, categories=categories, seed=draw(st.integers(0, 3)), **sizes)


@given(records(), configs(floors=False))
@settings(deadline=None, max_examples=80)
def test_identical_records_pass_wherever_there_is_data(world, config):
    record = world[1]
    result = compare(record, record, config)
    assert {check.verdict for check in result.checks} <= {"pass", "no data"}
    if all(check.verdict == "pass" for check in result.checks if check.level == "error"):
        assert result.exit_code(strict=True) == 0
    else:
        assert result.exit_code() == 3


@given(records(), configs())
@settings(deadline=None, max_examples=80)
def test_what_fails_one_way_does_not_fail_the_other_way(world, config):
    _, one, other = world
    there, back = compare(one, other, config), compare(other, one, config)
    verdicts = {check.name: check.verdict for check in back.checks if not check.is_floor}
    failed = [check.name for check in there.checks if check.verdict == "fail" and not check.is_floor]
    failed = [name for name in failed if name != COLLAPSED]  # some images may collapse and others recover
    assert [name for name in failed if verdicts.get(name) == "fail"] == []


@given(records(), configs(), st.floats(0, 1))
@settings(deadline=None, max_examples=80)
def test_more_margin_never_fails_more(world, config, more):
    _, one, other = world

    def wider(margin):
        return Margin(min(1.0, margin.amount + more), margin.relative)

    lenient = replace(
        config,
        checks={name: replace(rule, margin=wider(rule.margin)) for name, rule in config.checks.items()},
        categories=replace(config.categories, margin=wider(config.categories.margin)),
    )
    order = {"fail": 0, "inconclusive": 1, "pass": 2}
    strictly, leniently = compare(one, other, config), compare(one, other, lenient)
    for before, after in zip(strictly.checks, leniently.checks, strict=True):
        assert before.name == after.name
        if before.verdict != "no data":
            assert order[after.verdict] >= order[before.verdict]
    ranks = {"regression": 0, "not comparable": 1, "inconclusive": 2, "pass": 3}
    assert ranks[leniently.verdict] >= ranks[strictly.verdict]


@given(records(), configs(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=30)
def test_the_order_of_the_objects_does_not_matter(world, config, random):
    _, one, other = world
    assume(len(one.objects) > 1)
    shuffled = replace(other, objects=tuple(random.sample(other.objects, len(other.objects))))
    assert compare(one, shuffled, config) == compare(one, other, config)


@example(Margin(0.0))
@given(MARGINS)
def test_a_margin_reads_as_it_is_written(margin):
    from odsg_lightning.gate.config_file import _margin

    text = str(margin)
    assert _margin(text if margin.relative else float(text), "here").below(1.0) == pytest.approx(margin.amount)
