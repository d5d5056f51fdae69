from dataclasses import replace

import numpy as np
import pytest
from helpers.records import as_missed, as_undefined, make_record, with_rows

from odsg_lightning.names import BOX_PARAMETERS, IOF_NAMES
from odsg_lightning.report.figures import curves, distributions, drawn
from odsg_lightning.report.numbers import Numbers


def with_object_iof(*shares: tuple[float | None, ...]):
    """One object for each tuple of the four box maps' share on the object."""
    record = make_record(len(shares), 1, missed=0.0)
    rows = []
    for row, values in zip(record.objects, shares, strict=True):
        told = {f"{parameter}/object": value for parameter, value in zip(BOX_PARAMETERS, values, strict=True)}
        rows.append(replace(row, iof={**row.iof, **told}))
    return replace(record, objects=tuple(rows))


def test_the_mean_over_objects_of_the_mean_of_the_defined_maps_by_hand():
    numbers = Numbers(with_object_iof((0.2, 0.4, 0.6, 0.8), (0.1, None, None, 0.3), (None, None, None, None)))
    assert numbers.means["iof/object"] == pytest.approx((0.5 + 0.2) / 2)


def test_counts_and_shares_by_hand():
    record = make_record(2, 2, missed=0.0, match_rate=1.0)
    rows = list(record.objects)
    rows[0], rows[1] = as_missed(rows[0]), as_undefined(replace(rows[1], matched_samples=5), ("x_min", "score"))
    numbers = Numbers(replace(record, objects=tuple(rows)))
    counts = [numbers.values_by_key[name] for name in ("audit/n_objects", "missed", "audit/n_undefined")]
    assert counts == [4, 1, 2]
    assert numbers.means["audit/recall"] == 0.75
    assert numbers.means["audit/match_rate"] == (5 + 20 + 20) / 60
    assert len(numbers.defined("x_min/edge")) == 2
    assert len(numbers.defined("y_min/edge")) == 3


def test_nothing_detected_has_no_values():
    record = with_rows(make_record(2), as_missed)
    numbers = Numbers(record)
    assert {name for name, value in numbers.values_by_key.items() if value is not None} == {
        "audit/recall",
        "audit/n_objects",
        "audit/n_undefined",
        "missed",
    }
    assert distributions(["A"], [numbers])[0].quartiles is None


def test_average_precision_as_logged_in_validation_or_test():
    def numbers(**metrics):
        return Numbers(replace(make_record(2), metrics={k.replace("_", "/", 1): v for k, v in metrics.items()}))

    assert numbers(val_map_50=0.9, test_map_50=0.1).average_precision("map_50") == 0.9
    assert numbers(test_map=0.4).average_precision("map") == 0.4
    assert numbers(val_map=-1.0).average_precision("map") is None  # COCO: there was no object
    assert numbers(val_map=None).average_precision("map") is None


def test_the_table_holds_quartiles_of_every_record():
    one, other = Numbers(make_record(9)), Numbers(make_record(9, seed=1))
    rows = distributions(["A", "B"], [one, other])
    assert [(row.name, row.letter) for row in rows[:2]] == [(IOF_NAMES[0], "A"), (IOF_NAMES[0], "B")]
    assert len(rows) == 2 * len(IOF_NAMES)
    assert rows[1].quartiles == pytest.approx(np.quantile(other.defined(IOF_NAMES[0]), [0.25, 0.5, 0.75]))


@pytest.mark.parametrize(("count", "indices"), [(1, [0]), (3, [0, 1, 2]), (11, [0, 2, 4, 6, 8, 10])])
def test_violins_are_thinned_out_evenly(count, indices):
    assert drawn(count) == indices


def at_step(step: int | None, **metrics: float):
    record = make_record(3)
    return Numbers(replace(record, provenance={**record.provenance, "step": step}, metrics=metrics))


def test_curves_need_two_steps():
    assert curves(["A"], [at_step(1)]) is None
    assert curves(["A", "B"], [at_step(1), at_step(None)]) is None
    assert curves(["A", "B"], [at_step(1), at_step(1)]) is None


def test_curves_go_by_step_and_leave_out_what_was_not_logged():
    drift = {f"drift/{parameter}/pearson": 0.1 * index for index, parameter in enumerate(BOX_PARAMETERS)}
    found = curves(["A", "B", "C"], [at_step(30, **drift), at_step(None), at_step(10)])
    assert (found.steps, found.letters) == ([10, 30], ["C", "A"])
    titles = ["With pixels hidden", "IOF", "Found and defined", "Drift"]
    assert [panel.title for panel in found.panels] == titles
    assert list(found.table)[:2] == ["With pixels hidden, sufficiency", "With pixels hidden, necessity"]
    assert {"Found and defined, recall", "Found and defined, defined", "IOF, near"} <= set(found.table)
    assert found.table["Drift, previous"] == [None, pytest.approx(0.15)]


def test_curves_say_which_direction_is_good():
    drift = {f"drift/{parameter}/pearson": 0.1 for parameter in BOX_PARAMETERS}
    found = curves(["A", "B"], [at_step(1), at_step(2, **drift)])
    better = {panel.title: panel.better for panel in found.panels}
    assert better["Drift"] == "lower is better"
    assert better["Found and defined"] == "higher is better"


def test_each_kind_of_drift_has_its_curve():
    kinds = {"drift": 0.1, "drift_ref": 0.2, "drift_noise": 0.3}
    drift = {f"{kind}/{parameter}/pearson": value for kind, value in kinds.items() for parameter in BOX_PARAMETERS}
    found = curves(["A", "B"], [at_step(1), at_step(2, **drift)])
    told = {name: values[1] for name, values in found.table.items() if name.startswith("Drift")}
    assert told == pytest.approx({"Drift, previous": 0.1, "Drift, reference": 0.2, "Drift, noise": 0.3})
