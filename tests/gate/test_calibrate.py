from dataclasses import replace

import numpy as np
import pytest
from helpers.records import as_undefined, dropped, make_record, shifted, with_rows

from odsg_lightning.errors import BrokenInputError, UserInputError
from odsg_lightning.gate import GateConfig, Margin, Rule, compare
from odsg_lightning.gate.calibrate import calibrate, calibrated_config
from odsg_lightning.gate.config import CHECKS
from odsg_lightning.names import IOF_NAMES


def seeds(count, **settings):
    noise = {"seed_sd": 0.08, "missed": 0.05}
    return {f"seed_{seed}.json": make_record(audit_seed=seed, **(noise | settings)) for seed in range(count)}


def row(rows, name):
    (found,) = [one for one in rows if one.check == name]
    return found


def test_noise_and_margin_by_hand():
    """Three audits that differ by a constant: the largest drop is 0.06, its interval has no width."""
    quiet = {"missed": 0, "image_sd": 0, "object_sd": 0}
    records = {
        str(seed): replace(dropped(make_record(**quiet), drop), fingerprint=make_record(audit_seed=seed).fingerprint)
        for seed, drop in enumerate([0.0, 0.02, 0.06])
    }
    found = row(calibrate(records), "iof/object")
    assert found.sd == pytest.approx(np.std([0.0, 0.02, 0.06], ddof=1))
    assert found.largest_drop == pytest.approx(0.06)
    assert found.proposed == 0.09
    recall = row(calibrate(records), "recall")
    assert (recall.sd, recall.largest_drop, recall.proposed) == (0, 0, 0.01)
    near = row(calibrate(records), "iof/near")
    assert (near.largest_drop, near.proposed) == (pytest.approx(0.06), 0.09)


def test_every_pair_passes_outright_with_the_proposed_margins():
    records = seeds(3)
    rows = calibrate(records)
    config = calibrated_config(rows)
    everything = replace(config, checks={name: replace(rule, level="error") for name, rule in config.checks.items()})
    for one in records.values():
        for other in records.values():
            result = compare(one, other, everything, ignore_seed=True)
            assert {check.verdict for check in result.checks} == {"pass"}
    assert {one.check for one in rows} == {*CHECKS, "categories"}
    assert all(round(one.proposed / 0.005) == pytest.approx(one.proposed / 0.005) for one in rows)


def test_each_pair_is_measured_both_ways():
    records = seeds(3)
    turned = dict(reversed(records.items()))
    there, back = ([(one.check, one.proposed) for one in calibrate(given)] for given in (records, turned))
    assert there == back


def test_the_margin_is_no_wider_than_said():
    """Two thirds of it, less a step of rounding, is too narrow for some pair."""
    records = seeds(3)
    for name in ("iof/object", "iof/x_min/edge", "match_rate"):
        proposed = row(calibrate(records), name).proposed
        narrow = GateConfig(checks={name: Rule(Margin((proposed - 0.005) / 1.5 - 1e-6))})
        verdicts = {
            check.verdict
            for one in records.values()
            for other in records.values()
            for check in compare(one, other, narrow, ignore_seed=True).checks
            if check.name == name
        }
        assert verdicts != {"pass"}


def test_more_noise_proposes_more():
    narrow, wide = (row(calibrate(seeds(3, seed_sd=sd)), "iof/object").proposed for sd in (0.02, 0.2))
    assert narrow < wide


def test_few_images_are_covered_too():
    records = seeds(2, n_images=3)
    config = calibrated_config(calibrate(records))
    one, other = records.values()
    assert compare(one, other, config, ignore_seed=True).verdict == "pass"
    assert compare(other, one, config, ignore_seed=True).verdict == "pass"


def test_a_check_without_data_keeps_its_margin():
    records = {name: with_rows(one, lambda r: as_undefined(r, ["score"])) for name, one in seeds(2).items()}
    rows = calibrate(records)
    assert row(rows, "iof/score/object").proposed is None
    config = calibrated_config(rows)
    assert config.checks["iof/score/object"] == GateConfig().checks["iof/score/object"]
    assert (config.checks["defined"].level, config.checks["iof/near"].level) == ("error", "warn")
    assert config.checks["iof/x_min/middle"].level == "off"


def test_records_that_are_not_of_one_checkpoint_are_refused():
    records = seeds(3)
    other = records["seed_1.json"]
    provenance = {**other.provenance, "checkpoint_sha256": "d" * 64}
    with pytest.raises(BrokenInputError, match=r"seed_1.json is of another than seed_0.json"):
        calibrate(records | {"seed_1.json": replace(other, provenance=provenance)})
    with pytest.raises(BrokenInputError, match=r"seed_1.json says of none"):
        calibrate(records | {"seed_1.json": replace(other, provenance={**provenance, "checkpoint_sha256": None})})


def test_records_that_differ_in_more_than_the_seed_are_refused():
    records = seeds(3)
    with pytest.raises(BrokenInputError, match=r"seed_2.json: The audits differ in sigma"):
        calibrate(records | {"seed_2.json": make_record(audit_seed=2, fingerprint={"sigma": 0.1})})
    with pytest.raises(BrokenInputError, match="seed of its own"):
        calibrate(records | {"again.json": make_record(audit_seed=1)})
    with pytest.raises(UserInputError, match="at least two records"):
        calibrate(seeds(1))


def trainings(count):
    """Audits under one seed of checkpoints that differ as retrainings do."""
    base = make_record()
    return {
        f"run_{run}.json": replace(
            dropped(base, 0.04 * run, ["sufficiency", *IOF_NAMES]),
            provenance={**base.provenance, "checkpoint_sha256": f"{run}" * 64},
        )
        for run in range(count)
    }


def test_margins_of_retrainings_let_each_take_the_place_of_each():
    records = trainings(3)
    config = calibrated_config(calibrate(records, retrained=True))
    assert config.checks["iof/object"].margin.amount == 0.08  # the largest drop; its interval has no width here
    pairs = [(one, other) for one in records.values() for other in records.values()]
    assert {compare(*pair, config).verdict for pair in pairs} == {"pass"}
    assert {compare(*pair).verdict for pair in pairs} > {"pass"}  # with the default margins some pair is refused


def test_every_statistic_has_its_spread():
    base = make_record(missed=0)
    records = {
        f"run_{run}.json": replace(
            make_record(missed=0, sufficiency=0.8 - 0.1 * run),
            provenance={**base.provenance, "checkpoint_sha256": f"{run}" * 64},
        )
        for run in range(3)
    }
    blank = with_rows(records["run_2.json"], lambda r: as_undefined(r, ["score"]) if r.annotation_id <= 30 else r)
    fallen = with_rows(blank, lambda r: shifted(r, 0.7) if r.image_id <= 3 else r)
    rows = calibrate(records | {"run_2.json": fallen}, retrained=True)
    sufficiency = row(rows, "occlusion/sufficiency")
    assert sufficiency.sd == pytest.approx(0.1, abs=1e-3)
    assert (sufficiency.largest_drop, sufficiency.proposed) == (
        pytest.approx(0.2, abs=1e-3),
        pytest.approx(0.2, abs=0.011),
    )
    assert row(rows, "defined").largest_drop == pytest.approx(0.1)
    collapsed = row(rows, "collapsed")
    assert (collapsed.sd, collapsed.largest_drop, collapsed.proposed) == (None, 0.15, 0.15)
    quiet = row(calibrate(trainings(3), retrained=True), "collapsed")
    assert (quiet.largest_drop, quiet.proposed) == (0, 0.05)  # a few dozen images cannot show a smaller share


def test_retrainings_are_told_from_audits_of_one_checkpoint():
    records = trainings(2)
    with pytest.raises(BrokenInputError, match=r"run_1.json is of another than run_0.json: --retrained measures"):
        calibrate(records)
    with pytest.raises(BrokenInputError, match=r"again.json is of the same one as run_1.json"):
        calibrate(records | {"again.json": records["run_1.json"]}, retrained=True)
    nameless = {**records["run_1.json"].provenance, "checkpoint_sha256": None}
    with pytest.raises(BrokenInputError, match="says of none what it is"):
        calibrate(records | {"b.json": replace(records["run_1.json"], provenance=nameless)}, retrained=True)
