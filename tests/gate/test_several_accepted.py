"""Against several accepted audits: the margin begins at the lowest of them."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.records import as_baseline, as_missed, as_undefined, dropped, make_record, with_rows

from odsg_lightning.gate import CategoryRule, GateConfig, Margin, Rule, compare
from odsg_lightning.gate.outputs.as_json import result_as_json
from odsg_lightning.gate.outputs.summary import result_as_markdown
from odsg_lightning.gate.outputs.terminal import print_result
from odsg_lightning.records.record import AuditRecord

FIRST = make_record(20, 3, iof=0.5, missed=0)


def baseline(*further: AuditRecord, first: AuditRecord = FIRST) -> AuditRecord:
    return as_baseline(replace(first, further=further))


def check(result, name="iof/object"):
    (found,) = [one for one in result.checks if one.name == name]
    return found


def test_mean_and_limit_by_hand():
    """Audits at 0, -0.06 and -0.03: their mean is -0.03, the lowest lies 0.03 below it."""
    result = compare(baseline(dropped(FIRST, 0.06), dropped(FIRST, 0.03)), dropped(FIRST, 0.1))
    found, alone = check(result), check(compare(FIRST, dropped(FIRST, 0.1)))
    assert found.baseline == pytest.approx(alone.baseline - 0.03, abs=1e-3)
    assert found.change == pytest.approx(-0.07, abs=1e-3)
    assert found.threshold == pytest.approx(-0.08, abs=1e-3)
    assert (found.verdict, alone.verdict) == ("pass", "fail")
    assert result.n_accepted == 3


@pytest.mark.parametrize(("below", "verdict"), [(0.045, "pass"), (0.055, "fail")])
def test_a_candidate_may_fall_by_the_margin_below_the_lowest(below, verdict):
    result = compare(baseline(dropped(FIRST, 0.06), dropped(FIRST, 0.03)), dropped(FIRST, 0.06 + below))
    assert check(result).verdict == verdict


def test_the_order_does_not_matter():
    audits = FIRST, dropped(FIRST, 0.06), make_record(20, 3, iof=0.5, missed=0.1, audit_seed=1, seed_sd=0.1)
    audits = tuple(replace(one, fingerprint=FIRST.fingerprint) for one in audits)
    candidate = dropped(FIRST, 0.02)
    there = compare(baseline(*audits[1:], first=audits[0]), candidate)
    back = compare(baseline(*audits[1::-1], first=audits[2]), candidate)
    for one, two in zip(there.checks, back.checks, strict=True):
        assert (one.name, one.verdict, one.n_objects) == (two.name, two.verdict, two.n_objects)
        assert [one.baseline, one.lower, one.threshold] == pytest.approx([two.baseline, two.lower, two.threshold])


def test_an_object_counts_with_the_audits_that_have_a_value():
    """Each audit misses other objects: all are compared, and missing the hard ones does not raise an audit."""
    missing = [with_rows(FIRST, lambda r, k=k: as_missed(r) if r.annotation_id % 3 == k else r) for k in range(3)]
    result = compare(baseline(*missing[1:], first=missing[0]), FIRST)
    found = check(result)
    assert (found.n_objects, found.change, found.threshold) == (60, pytest.approx(0), pytest.approx(-0.05))
    recall = check(result, "recall")
    assert (recall.baseline, recall.candidate) == (pytest.approx(2 / 3), 1.0)


def test_a_map_counts_with_the_audits_that_have_it():
    lost = with_rows(FIRST, lambda row: as_undefined(row, ("y_min", "y_max")))
    result = compare(baseline(lost), FIRST)
    assert (check(result).change, check(result).threshold) == (pytest.approx(0), pytest.approx(-0.05))
    defined = check(result, "defined")
    assert (defined.baseline, defined.threshold) == (pytest.approx(0.8), pytest.approx(-0.3))
    assert check(compare(baseline(lost), lost), "defined").verdict == "pass"
    assert check(compare(FIRST, lost), "defined").verdict == "fail"


def test_a_single_one_is_compared_as_before():
    candidate = dropped(FIRST, 0.03)
    assert compare(baseline(), candidate) == compare(FIRST, candidate)


def test_categories_have_their_own_lowest():
    def lower_cats(drop):
        return with_rows(
            FIRST,
            lambda row: dropped(replace(FIRST, objects=(row,)), drop).objects[0] if row.category == "cat" else row,
        )

    config = GateConfig(categories=CategoryRule(Margin(0.1)))
    result = compare(baseline(lower_cats(0.08)), FIRST, config)
    assert check(result, "iof/near[cat]").threshold == pytest.approx(-0.14, abs=1e-3)
    assert check(result, "iof/near[dog]").threshold == pytest.approx(-0.1)


def test_a_relative_margin_is_a_share_of_the_mean_of_all():
    config = GateConfig(checks={"iof/object": Rule(Margin(0.1, relative=True))})
    found = check(compare(baseline(dropped(FIRST, 0.06)), FIRST, config))
    assert found.threshold == pytest.approx(-(0.1 * found.baseline + 0.03), abs=1e-3)


def test_a_wide_span_does_not_hide_a_collapse():
    low = dropped(FIRST, 0.2)
    collapsed = with_rows(
        FIRST, lambda row: dropped(replace(FIRST, objects=(row,)), 1.0).objects[0] if row.image_id <= 5 else row
    )
    assert check(compare(baseline(low), collapsed), "collapsed").verdict == "fail"
    assert compare(baseline(low), dropped(FIRST, 0.1)).verdict == "pass"


def test_the_same_checkpoint_is_said_of_any_of_them():
    one, two, three = (replace(FIRST, provenance={**FIRST.provenance, "checkpoint_sha256": s * 64}) for s in "abd")
    assert any("same checkpoint" in warning for warning in compare(baseline(two, first=one), two).warnings)
    assert not any("same checkpoint" in warning for warning in compare(baseline(two, first=one), three).warnings)


def test_the_number_is_shown_everywhere(capsys):
    result = compare(baseline(dropped(FIRST, 0.06), dropped(FIRST, 0.03)), FIRST)
    print_result(result)
    told = "Compared with 3 accepted trainings"
    assert told in capsys.readouterr().out
    assert told in result_as_markdown(result)
    assert result_as_json(result)["n_accepted"] == 3
    print_result(compare(FIRST, FIRST))
    assert "accepted trainings" not in capsys.readouterr().out


def test_identical_audits_have_no_spread():
    rng = np.random.default_rng(0)
    noisy = with_rows(FIRST, lambda row: as_undefined(row, ("x_min",)) if rng.random() < 0.3 else row)
    result = compare(baseline(noisy, noisy, first=noisy), noisy)
    assert {one.verdict for one in result.checks} == {"pass"}
    assert check(result).threshold == pytest.approx(-0.05, abs=1e-12)
