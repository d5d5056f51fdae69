from dataclasses import replace

import numpy as np
import pytest
from helpers.records import as_baseline, as_missed, as_undefined, as_unjudged, dropped, make_record, shifted, with_rows

from odsg_lightning.gate import CategoryRule, GateConfig, GateResult, Margin, Rule, compare
from odsg_lightning.gate.checks import BY_CATEGORY
from odsg_lightning.gate.config import CHECKS
from odsg_lightning.names import BOX_PARAMETERS, IOF_NAMES, OCCLUSION_NAMES

OFF = {name: Rule(level="off") for name in CHECKS}
NO_CATEGORIES = CategoryRule(level="off")
QUIET = {"seed_sd": 0.0, "image_sd": 0.0, "object_sd": 0.0}


def only(name: str, rule: Rule, **settings) -> GateConfig:
    return GateConfig(checks={**OFF, name: rule}, **({"categories": NO_CATEGORIES} | settings))


def check(result: GateResult, name: str):
    (found,) = [one for one in result.checks if one.name == name]
    return found


def test_a_uniform_drop_by_hand():
    record = make_record(20, 3, missed=0)
    result = compare(record, dropped(record, 0.1, ["sufficiency"]))
    found = check(result, "occlusion/sufficiency")
    assert (found.verdict, found.level) == ("fail", "error")
    assert found.change == pytest.approx(-0.1, abs=1e-5)
    assert [found.lower, found.upper] == pytest.approx([-0.1, -0.1], abs=1e-5)
    assert (found.threshold, found.n_objects, found.n_images) == (-0.05, 60, 20)
    assert result.verdict == "regression"
    assert (result.exit_code(), result.exit_code(strict=True)) == (1, 1)


@pytest.mark.parametrize(("drop", "verdict"), [(0.05, "pass"), (0.04, "pass"), (0.06, "fail"), (-0.3, "pass")])
def test_a_drop_by_exactly_the_margin_is_borne(drop, verdict):
    record = make_record(20, 3, iof=0.5, missed=0, **QUIET)
    assert check(compare(record, dropped(record, drop)), "iof/object").verdict == verdict


def test_a_drop_in_few_images_is_inconclusive_and_strict_refuses_it():
    record = make_record(20, 3, missed=0)
    candidate = with_rows(record, lambda row: shifted(row, 0.4, ["sufficiency"]) if row.image_id <= 4 else row)
    result = compare(record, candidate)
    found = check(result, "occlusion/sufficiency")
    assert found.verdict == "inconclusive"
    assert found.lower < -0.05 < found.upper
    assert result.verdict == "inconclusive"
    assert (result.exit_code(), result.exit_code(strict=True)) == (0, 1)


def test_means_and_values_are_of_the_objects_with_a_value_in_both():
    record = make_record(8, 2, missed=0)
    blank = {record.objects[0].key}
    before = with_rows(record, lambda row: as_missed(row) if row.key == record.objects[3].key else row)
    after = with_rows(record, lambda row: as_undefined(row) if row.key in blank else row)
    found = check(compare(before, after), "iof/object")
    values = [row.object_iof for index, row in enumerate(record.objects) if index not in (0, 3)]
    assert found.n_objects == 14
    assert found.baseline == pytest.approx(np.mean(values))
    assert found.change == pytest.approx(0)
    assert check(compare(before, after), "recall").baseline == pytest.approx(15 / 16)


def test_every_check_sees_its_own_values():
    record = make_record(20, 3, missed=0)
    everything = {name: Rule(Margin(0.01), level="warn") for name in CHECKS}
    for name in IOF_NAMES:
        candidate = dropped(record, 0.04, [name])
        result = compare(record, candidate, GateConfig(checks=everything, categories=NO_CATEGORIES))
        failed = {one.name for one in result.checks if one.verdict == "fail"}
        # A quarter of a box map's drop is the drop of their mean.
        assert failed == {f"iof/{name}"}, failed
        for mean in ("object", "near"):
            part_of_it = name.split("/")[1] == mean and name.split("/")[0] in BOX_PARAMETERS
            assert check(result, f"iof/{mean}").change == pytest.approx(-0.01 if part_of_it else 0, abs=1e-5)
    for name in OCCLUSION_NAMES:
        result = compare(record, dropped(record, 0.04, [name]), GateConfig(checks=everything))
        assert {one.name for one in result.checks if one.verdict == "fail"} == {f"occlusion/{name}"}


def test_match_rate_is_a_share_of_each_objects_own_noise_samples():
    record = make_record(20, 3, missed=0, match_rate=1.0)
    half = with_rows(record, lambda row: replace(row, matched_samples=5, n_samples=10))
    found = check(compare(record, half), "match_rate")
    assert (found.baseline, found.candidate, found.verdict) == (1.0, 0.5, "fail")
    assert compare(record, half).verdict == "pass"  # a warning by default
    stopped = with_rows(half, lambda row: replace(row, matched_samples=6, n_samples=11, stopped=True))
    assert check(compare(record, stopped), "match_rate").candidate == 0.5  # the last match is the rule's


def test_recall_alone_fails_a_detector_that_drops_hard_objects():
    record = make_record(24, 3, missed=0)
    hard = np.quantile([row.object_iof for row in record.objects], 0.3)
    candidate = with_rows(record, lambda row: as_missed(row) if row.object_iof < hard else row)

    def mean(one):
        return np.mean([row.object_iof for row in one.objects if not row.missed])

    assert mean(candidate) > mean(record) + 0.01  # over what it still detects it looks better than before
    result = compare(record, candidate, GateConfig(checks={"recall": Rule()}))
    failed = [one.name for one in result.checks if one.verdict == "fail" and one.level == "error"]
    assert failed == ["recall"]
    assert check(result, "iof/object").change == 0
    assert result.verdict == "regression"
    assert compare(record, candidate).verdict == "pass"  # a warning by default
    assert len(result.newly_missed) == sum(row.missed for row in candidate.objects)


# Margins and floors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("iof", "verdict"), [(0.8, "pass"), (0.5, "fail")])
def test_a_relative_margin_is_a_share_of_the_baselines_mean(iof, verdict):
    record = make_record(20, 3, iof=iof, missed=0, **QUIET)
    found = check(compare(record, dropped(record, 0.06), only("iof/object", Rule(Margin(0.1, True)))), "iof/object")
    assert found.threshold == pytest.approx(-0.1 * iof)
    assert found.verdict == verdict


@pytest.mark.parametrize(("floor", "verdict"), [(0.4, "pass"), (0.6, "inconclusive"), (0.8, "fail")])
def test_a_floor_asks_of_the_candidate_alone(floor, verdict):
    record = make_record(20, 3)
    result = compare(dropped(record, 0.3), record, only("iof/object", Rule(floor=floor)))
    found = check(result, "iof/object (floor)")
    assert (found.verdict, found.threshold, found.baseline) == (verdict, floor, None)
    assert found.lower < found.candidate < found.upper
    assert check(result, "iof/object").verdict == "pass"


def test_recall_has_a_floor_too():
    record = make_record(20, 3, missed=0.4)
    result = compare(record, record, only("recall", Rule(floor=0.9)))
    assert check(result, "recall (floor)").verdict == "fail"
    assert result.verdict == "regression"


# What cannot be decided ---------------------------------------------------------------------------------------------


def test_no_data_is_never_a_pass():
    record = make_record(20, 3)
    blank = with_rows(record, as_unjudged)
    result = compare(record, blank)
    assert check(result, "occlusion/necessity").verdict == "no data"
    assert (result.verdict, result.exit_code()) == ("not comparable", 3)
    assert len(result.reasons) == 2
    assert result.reasons[1] == (
        "occlusion/necessity: no object has a value to compare; switch it off in gate.yaml: "
        "`checks: {occlusion/necessity: {level: off}}`."
    )
    off = {f"occlusion/{name}": Rule(level="off") for name in OCCLUSION_NAMES}
    assert compare(record, blank, GateConfig(checks=off)).verdict == "pass"


def test_a_failed_check_goes_before_one_without_data():
    record = make_record(20, 3)
    result = compare(record, with_rows(record, as_missed), GateConfig(checks={"recall": Rule()}))
    assert check(result, "iof/near").verdict == "no data"
    assert check(result, "recall").verdict == "fail"
    assert result.exit_code() == 1
    assert result.reasons


def test_a_floor_without_data_is_no_pass():
    record = with_rows(make_record(20, 3), as_undefined)
    result = compare(record, record, only("iof/object", Rule(floor=0.1)))
    assert check(result, "iof/object (floor)").verdict == "no data"
    assert result.exit_code() == 3


def test_no_data_at_level_warn_is_shown_only():
    record = with_rows(make_record(20, 3), lambda row: as_undefined(row, ["x_min"]))
    result = compare(record, record)
    assert check(result, "iof/x_min/object").verdict == "no data"
    assert result.verdict == "pass"


@pytest.mark.parametrize(("images", "verdict"), [(4, "inconclusive"), (5, "fail")])
def test_fewer_than_five_images_never_fail(images, verdict):
    record = make_record(images, 3, missed=0)
    assert check(compare(record, dropped(record, 0.3)), "iof/object").verdict == verdict


def test_fewer_than_five_images_pass_only_if_each_does():
    record = make_record(4, 3, missed=0)
    borne = with_rows(record, lambda row: shifted(row, 0.04))
    one_bad = with_rows(record, lambda row: shifted(row, 0.06 if row.image_id == 2 else -0.1))
    assert check(compare(record, borne), "iof/object").verdict == "pass"
    found = check(compare(record, one_bad), "iof/object")
    assert found.verdict == "inconclusive"
    assert found.lower == pytest.approx(-0.06, abs=1e-5)


@pytest.mark.parametrize(("images", "warned"), [(15, True), (16, False)])
def test_few_images_are_warned_of(images, warned):
    record = make_record(images, 3)
    warnings = compare(record, record).warnings
    assert any("fewer than 16" in warning for warning in warnings) == warned


def test_a_gate_that_cannot_fail_says_so():
    record = make_record(20, 3)
    result = compare(record, with_rows(record, as_missed), only("recall", Rule(level="warn")))
    assert result.verdict == "pass"
    assert any("nothing can fail this gate" in warning for warning in result.warnings)


# Comparable or not --------------------------------------------------------------------------------------------------


def test_each_differing_field_is_named_with_both_values():
    record = make_record()
    other = replace(record, fingerprint={**record.fingerprint, "n_samples": 5, "sigma": 0.1, "tolerance": 0.01})
    result = compare(record, other)
    assert (result.verdict, result.exit_code(), result.checks) == ("not comparable", 3, ())
    assert result.reasons == (
        "The audits differ in n_samples: 20 in the baseline, 5 in the candidate.",
        "The audits differ in sigma: 0.05 in the baseline, 0.1 in the candidate.",
        "The audits differ in tolerance: nothing in the baseline, 0.01 in the candidate.",
    )


def test_a_differing_seed_can_be_ignored_and_the_refusal_says_how():
    record, other = make_record(), make_record(audit_seed=3)
    result = compare(record, other)
    assert result.verdict == "not comparable"
    assert "--ignore-seed" in result.reasons[1]
    ignored = compare(record, other, ignore_seed=True)
    assert ignored.verdict == "pass"
    assert any("different seeds (0 and 3)" in warning for warning in ignored.warnings)
    more = replace(other, fingerprint={**other.fingerprint, "sigma": 0.1})
    assert compare(record, more, ignore_seed=True).verdict == "not comparable"


def test_other_objects_under_the_same_fingerprint_are_refused():
    record = make_record()
    fewer = replace(record, objects=record.objects[:-1])
    assert "audited objects differ, first in annotation 60 of image 20 (1 in all)" in compare(record, fewer).reasons[0]
    renamed = with_rows(record, lambda row: replace(row, category="bird") if row.annotation_id == 2 else row)
    assert "categories differ, first in annotation 2 of image 1" in compare(record, renamed).reasons[0]


def test_the_same_checkpoint_on_both_sides_is_said():
    record = make_record()
    other = replace(record, provenance={**record.provenance, "checkpoint_sha256": "d" * 64})
    assert any("same checkpoint" in warning for warning in compare(record, record).warnings)
    assert not any("same checkpoint" in warning for warning in compare(record, other).warnings)


# Categories ---------------------------------------------------------------------------------------------------------


def by_category(categories, level="error", **settings):
    return GateConfig(checks=OFF, categories=CategoryRule(level=level, **settings), **categories)


def test_a_drop_in_one_category_is_found():
    record = make_record(30, 4, missed=0, categories=["cat", "dog", "cow", "hen"])
    candidate = with_rows(record, lambda row: shifted(row, 0.16) if row.category == "cow" else row)
    result = compare(record, candidate, by_category({}))
    assert {one.name for one in result.checks if one.verdict == "fail"} == {"iof/near[cow]"}
    assert result.verdict == "regression"
    assert compare(record, candidate).verdict == "pass"  # it drowns, and categories only warn


def test_a_category_that_is_no_longer_detected_fails_by_its_recall():
    record = make_record(30, 4, missed=0, categories=["cat", "dog", "cow", "hen"])
    candidate = with_rows(record, lambda row: as_missed(row) if row.category == "cow" else row)
    result = compare(record, candidate, by_category({}))
    assert check(result, "recall[cow]").verdict == "fail"
    skipped = [f"{name}[cow]" for name in ("occlusion/sufficiency", "occlusion/necessity", "iof/near")]
    assert [one.name for one in result.skipped_checks] == skipped
    assert result.skipped_checks[0].reason == "0 objects in 0 images to compare, needs 20 in 5"


def test_small_categories_are_skipped_with_the_reason():
    record = make_record(21, 4, missed=0, categories=["cat", "dog", "cow", "hen"])
    record = with_rows(record, lambda row: replace(row, category="eel") if row.annotation_id in (1, 2, 3) else row)
    assert {one.name for one in compare(record, record).skipped_checks} == {f"{name}[eel]" for name in BY_CATEGORY}
    four_images = make_record(4, 20, missed=0, categories=["cat"])
    assert "80 objects in 4 images" in compare(four_images, four_images).skipped_checks[0].reason


@pytest.mark.parametrize("drop", [0.0, 0.05, 0.09, 0.1, 0.11, 0.15, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_one_category_alone_is_judged_as_all_objects_are(drop, seed):
    one = {"categories": ["cat"], "seed": seed, "seed_sd": 0.15, "missed": 0.0}
    record, candidate = make_record(**one), dropped(make_record(**one, audit_seed=1, fingerprint={"seed": 0}), drop)
    all_objects = compare(record, candidate, only("iof/near", Rule(Margin(0.1)))).checks[0]
    category = check(compare(record, candidate, by_category({})), "iof/near[cat]")
    assert category.verdict == all_objects.verdict
    # Not to the last bit: the same numbers are added up in another order.
    assert (category.lower, category.upper) == pytest.approx((all_objects.lower, all_objects.upper), abs=1e-12)


def test_false_discoveries_are_controlled_over_categories():
    """Each category of many falls by a little more than the margin in a few resamples: single, one would fail."""
    names = [f"class {index}" for index in range(20)]
    generator = np.random.default_rng(0)
    record = make_record(40, 20, missed=0, categories=names, sufficiency=0.5, **QUIET)
    wanted = {name: -0.1 for name in names} | {"class 3": -0.185}
    noise = {row.key: generator.normal(0, 0.22) for row in record.objects}
    candidate = with_rows(record, lambda row: shifted(row, -wanted[row.category] + noise[row.key], ["sufficiency"]))
    result = compare(record, candidate, by_category({}))
    single = [one for one in result.checks if one.name.startswith("occlusion/sufficiency") and one.upper < -0.1]
    assert single
    assert all(one.verdict == ("fail" if one.p <= 0.025 else "inconclusive") for one in single)
    assert [one.name for one in single if one.verdict == "inconclusive"]  # refused only by the adjustment


def test_more_categories_than_resamples_allow_are_warned_of():
    record = make_record(30, 4, missed=0, categories=["cat", "dog", "cow", "hen"])
    config = by_category({"resamples": 99, "confidence": 0.95})
    warnings = compare(record, record, config).warnings
    assert any("4 categories and 99 resamples a single category cannot fail" in warning for warning in warnings)
    enough = by_category({"resamples": 160})
    candidate = with_rows(record, lambda row: shifted(row, 0.3) if row.category == "cow" else row)
    assert compare(record, candidate, enough).verdict == "regression"


def test_blocks_of_checks_are_judged_as_one(monkeypatch):
    record = make_record(30, 4, missed=0.1, seed_sd=0.1)
    other = make_record(30, 4, missed=0.1, seed_sd=0.1, audit_seed=1, fingerprint={"seed": 0})
    whole = compare(record, other)
    monkeypatch.setattr("odsg_lightning.gate.judging._COLUMNS", 3)
    for one, two in zip(whole.checks, compare(record, other).checks, strict=True):
        assert (one.name, one.verdict) == (two.name, two.verdict)
        assert [one.lower, one.upper] == pytest.approx([two.lower, two.upper])


# Evidence -----------------------------------------------------------------------------------------------------------


def test_the_worst_objects_come_first_and_lost_ones_are_listed():
    record = make_record(20, 1, missed=0, **QUIET)
    falls = {3: 0.1, 5: 0.3, 7: 0.2, 8: 0.05, 9: 0.01, 10: 0.02}

    def change(row):
        if row.annotation_id == 1:
            return as_missed(row)
        if row.annotation_id == 2:
            return as_undefined(row, ["score"])
        return shifted(row, falls.get(row.annotation_id, -0.1), ["sufficiency"])

    candidate = with_rows(record, change)
    result = compare(record, candidate)
    assert result.ranked_by == "occlusion/sufficiency"
    assert [one.annotation_id for one in result.worst] == [5, 7, 3, 8, 10]
    (before,) = (row for row in record.objects if row.annotation_id == 5)
    (after,) = (row for row in candidate.objects if row.annotation_id == 5)
    assert result.worst[0].baseline == before.occlusion["sufficiency"]
    assert result.worst[0].candidate == after.occlusion["sufficiency"]
    assert [one.annotation_id for one in result.newly_missed] == [1]
    assert result.newly_missed[0].candidate is None
    assert result.newly_missed[0].baseline == record.objects[0].occlusion["sufficiency"]
    assert [one.annotation_id for one in result.newly_undefined] == [2]


def test_objects_are_named_by_what_fails():
    record = make_record(20, 1, missed=0, **QUIET)
    fallen = dropped(record, 0.3, [f"{p}/near" for p in BOX_PARAMETERS])
    result = compare(record, fallen)
    assert [one.level for one in result.checks if one.name == result.ranked_by] == ["warn"]
    assert (result.ranked_by, result.verdict, len(result.worst)) == ("iof/near", "pass", 5)
    assert compare(record, dropped(fallen, 0.3, ["necessity"])).ranked_by == "occlusion/necessity"
    without = make_record(20, 1, missed=0, occlusion=False, **QUIET)
    assert compare(without, without).ranked_by == "iof/near"
    nothing = with_rows(record, as_missed)
    assert compare(record, nothing).ranked_by == "iof/object"


def test_two_audits_of_one_checkpoint_pass():
    """200 simulated pairs under seed noise larger than SmoothGrad's with 20 noise samples; the bar is 95 %."""
    passed = 0
    for repetition in range(200):
        world = {"n_images": 16, "objects_per_image": 3, "seed": repetition, "seed_sd": 0.04}
        pair = [as_baseline(make_record(**world, audit_seed=1)), make_record(**world, audit_seed=2)]
        passed += compare(*pair, GateConfig(resamples=999), ignore_seed=True).verdict == "pass"
    assert passed >= 190
