from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.records import as_missed, as_undefined, make_record

from odsg_lightning.metrics.iof import IntersectionOverForeground
from odsg_lightning.names import EDGE_NAMES, IOF_NAMES, PARAMETERS, SUMMARY_NAMES
from odsg_lightning.records.means import audit_counts, audit_means, evidence_means, trim_extremes


@pytest.mark.parametrize("undefined", [0.0, 0.3])
def test_means_are_those_that_training_logs(undefined):
    record = make_record(9, 3, missed=0.2, undefined=undefined)
    rows = [row.iof for row in record.objects if row.iof is not None]
    table = [[np.nan if row[name] is None else row[name] for name in IOF_NAMES] for row in rows]
    metric = IntersectionOverForeground()
    metric.update(values=torch.tensor(table))
    means = audit_means(record.objects)
    for name, value in metric.compute().items():
        assert means[f"iof/{name}"] == pytest.approx(float(value), abs=1e-6), name
    assert {f"iof/{name}" for name in (*IOF_NAMES, *SUMMARY_NAMES)} < means.keys()


def test_evidence_is_averaged_over_the_objects_that_have_it():
    first, second, third, missed = make_record(2, 2, missed=0).objects
    rows = (
        replace(
            first,
            box_maps={"area_ratio": 3.0, "relevance_mass": 0.5, "pointing_game": 1.0},
            edges={"enrichment/x_min/edge": 3.0, "enrichment/y_max/edge": 1.0, "position/x_min": 0.25},
            occlusion={"sufficiency": 1.0, "necessity": 0.25},
        ),
        replace(
            second,
            box_maps={"area_ratio": 1.0, "relevance_mass": None, "pointing_game": 0.5},
            edges={"enrichment/x_min/edge": 1.0, "enrichment/y_max/edge": None, "position/x_min": 0.5},
            occlusion={"sufficiency": 0.5, "necessity": None},
        ),
        replace(third, box_maps={}, edges={}, occlusion={}),
        as_missed(missed),
    )
    means = evidence_means(rows)
    assert {name for name, value in means.items() if value is None} == (
        {*EDGE_NAMES, "enrichment/middle", "enrichment/opposite"}
        - {"enrichment/x_min/edge", "enrichment/y_max/edge", "position/x_min"}
    )
    assert {name: value for name, value in means.items() if value is not None} == {
        "enrichment/x_min/edge": 2.0,
        "enrichment/y_max/edge": 1.0,
        "enrichment/edge": 1.5,  # the objects' means are 2 and 1
        "position/x_min": 0.375,
        "position/mean": 0.375,
        "maps/area_ratio": 2.0,
        "maps/relevance_mass": 0.5,
        "maps/pointing_game": 0.75,
        "occlusion/sufficiency": 0.75,
        "occlusion/necessity": 0.25,
    }
    assert evidence_means(rows).items() <= audit_means(rows).items()
    assert set(evidence_means(rows[2:]).values()) == {None}


def test_match_rate_is_the_mean_of_the_objects_however_many_samples_each_took():
    first, second, third, missed = make_record(2, 2, missed=0).objects
    rows = (
        replace(first, matched_samples=3, n_samples=3, stopped=True),
        replace(second, matched_samples=3, n_samples=5, stopped=True),
        replace(third, matched_samples=5, n_samples=20),
        as_missed(missed),
    )
    assert audit_counts(rows)["audit/match_rate"] == pytest.approx((1 + 1 / 2 + 1 / 4) / 3, abs=1e-15)
    assert audit_counts(rows)["audit/samples_per_object"] == 28 / 3
    assert audit_counts([missed])["audit/match_rate"] == missed.matched_samples / 20
    assert audit_counts([as_missed(missed)])["audit/match_rate"] is None


def test_defined_is_the_share_of_the_detected_objects_maps():
    rows = make_record(2, 2, missed=0).objects
    counts = audit_counts((as_undefined(rows[0], ["x_max", "score"]), rows[1], as_missed(rows[2])))
    assert counts["audit/n_undefined"] == 2
    assert counts["audit/defined"] == 1 - 2 / (2 * len(PARAMETERS))
    assert audit_counts([as_missed(row) for row in rows])["audit/defined"] is None


def test_what_trimming_may_have_changed_is_that_of_the_worst_object():
    trimmed = ({"dropped": 0.01, "correlation": 0.999, "iof": 0.001}, {"dropped": 0.03})
    checked = {"dropped": 0.02, "correlation": 0.98, "iof": 0.0}, {"dropped": 0.0, "correlation": None, "iof": None}
    objects = make_record(2, 2, missed=0).objects
    rows = [replace(row, trimmed=of_row) for row, of_row in zip(objects, (*trimmed, *checked), strict=True)]
    worst = {"audit/trim_dropped": 0.03, "audit/trim_correlation": 0.98, "audit/trim_iof": 0.001}
    assert trim_extremes(rows) == worst
    assert trim_extremes(objects) == worst | dict.fromkeys(worst, None) | {"audit/trim_dropped": 0.0}
    assert set(trim_extremes([as_missed(objects[0])]).values()) == {None}
