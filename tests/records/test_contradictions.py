"""Rows that no audit with the settings of their own record writes are refused, by name."""

import json
from dataclasses import replace

import pytest
from helpers.records import as_baseline, as_missed, as_undefined, hidden_pixels, make_record, with_rows

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.cli import main
from odsg_lightning.errors import BrokenInputError
from odsg_lightning.names import MAP_NAMES
from odsg_lightning.records.contradictions import ContradictionError, refuse_contradictions
from odsg_lightning.records.record import read_record, write_record

GOOD = make_record(3, 2, seed=1, missed=0, match_rate=1.0)
AGAIN = {"score": 0.5, "iou": 0.8, "shift": [0.0, 0.0, 0.0, 0.0]}


def part(field, **changes):
    """A change of some of a row's values."""
    return lambda row: replace(row, **{field: {**getattr(row, field), **changes}})


def whole(**changes):
    return lambda row: replace(row, **changes)


CONTRADICTIONS = {
    "score": (whole(score=0.499), "below the score_threshold 0.5"),
    "no score": (whole(score=0.0), "below the score_threshold 0.5"),
    "iou": (whole(iou=0.49), "below the pair_iou 0.5"),
    "box x": (whole(box=(9.0, 1.0, 1.0, 9.0)), "an inverted box"),
    "box y": (whole(box=(1.0, 9.0, 9.0, 1.0)), "an inverted box"),
    "flat box": (whole(box=(1.0, 2.0, 9.0, 2.0)), "a box without an area"),
    "more matched": (whole(matched_samples=21), "matched in more noise samples than were made"),
    "fewer samples": (whole(n_samples=1, matched_samples=1), "1 noise samples where the settings make 20"),
    "more samples": (whole(n_samples=10**6), "1000000 noise samples where the settings make 20"),
    "stopped without tolerance": (whole(stopped=True), "stopped early where the settings have no tolerance"),
    "trimmed": (whole(trimmed={"dropped": 0.01}), "says what was trimmed of its maps where the settings trim nothing"),
    "stopped by nothing": (
        {"tolerance": 0.01},
        whole(n_samples=7, matched_samples=2, stopped=True),
        "stopped early by 2 matched noise samples, and it takes 3",
    ),
    "no match": (whole(matched_samples=0), "matched in no noise sample"),
    "thirds": (part("iof", **{"y_max/middle": 0.9}), "more of the map of y_max on its thirds"),
    "no near": (part("iof", **{"score/near": None}), "one map of score that is both defined and undefined"),
    "one third": (part("iof", **{"x_min/edge": None}), "one map of x_min that is both defined and undefined"),
    "box_maps": (
        lambda row: replace(as_undefined(row), box_maps={**dict.fromkeys(MAP_NAMES), "area_ratio": 1.0}),
        "no box map that is defined",
    ),
    "sufficiency": (part("occlusion", sufficiency=1.0), "but what was detected again makes it"),
    "necessity": (part("occlusion", necessity=1.0), "but what was detected again makes it"),
    "judged": (part("occlusion", necessity=None), "a necessity that does not go with what was detected again"),
    "not judged": (part("detected_again", **{"necessity/inpaint": None}), "a necessity that does not go with"),
    "matched less": ({"target": "logit"}, whole(matched_samples=19), "target 'logit' matches nothing"),
    "undetected": (whole(undetected=True), "is missed and has values, and target is 'output'"),
    "nothing explained": (
        {"target": "ground_truth"},
        as_missed,
        "is missed and has none, and target is 'ground_truth'",
    ),
    "hidden from it": ({"target": "ground_truth"}, whole(undetected=True), "pixels hidden by necessity"),
    "edges": (
        lambda row: replace(as_undefined(row, ["x_min"]), edges={"position/x_min": 0.5}),
        "has position/x_min, and its map of x_min is undefined",
    ),
    "enrichment": (
        lambda row: replace(nothing_on_it(row), edges={"enrichment/y_min/edge": 3.0}),
        "has enrichment/y_min/edge, and nothing of its map of y_min on the object",
    ),
    "a way fewer": (
        lambda row: without(row, "sufficiency/grey"),
        "pixels hidden by necessity/inpaint, sufficiency/blur",
    ),
    "a way more": (part("detected_again", **{"necessity/blur": AGAIN}), "pixels hidden by necessity/blur"),
    "no occlusion": (whole(occlusion={}, detected_again={}), "pixels hidden by nothing, and occlusion is 'blur"),
    "no values": (whole(occlusion={}), "and occlusion is 'blur"),
    "nowhere": (part("detected_again", **{"necessity/inpaint": {**AGAIN, "shift": None}}), "is and is not detected"),
    "score of nothing": (
        part("detected_again", **{"necessity/inpaint": {"score": 0.1, "iou": 0.0, "shift": None}}),
        "is and is not detected again",
    ),
}


def nothing_on_it(row):
    return replace(row, iof={name: 0.0 if name.startswith("y_min/") else share for name, share in row.iof.items()})


def without(row, way):
    return replace(row, detected_again={name: again for name, again in row.detected_again.items() if name != way})


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_a_row_that_contradicts_its_record_is_refused(kind):
    *settings, change, message = CONTRADICTIONS[kind]
    rows = [change(row) if row.annotation_id == 3 else row for row in GOOD.objects]
    with pytest.raises(ContradictionError, match=f"annotation 3 of image 2 .*{message}"):
        refuse_contradictions({**GOOD.fingerprint, **(settings[0] if settings else {})}, rows)


def undetected(row):
    """Nothing was hidden, and score and overlap may be what they like."""
    return replace(row, undetected=True, score=0.01, iou=0.0, occlusion={}, detected_again={})


LIMITS = {
    "rounded score": ({}, whole(score=0.5)),
    "rounded iou": ({}, whole(iou=0.5)),
    "missed": ({}, as_missed),
    "undefined": ({}, as_undefined),
    "never matched": (
        {},
        lambda row: replace(as_undefined(row, ["x_min", "y_min", "x_max", "y_max", "score"]), matched_samples=0),
    ),
    "stopped early": ({"tolerance": 0.01}, whole(n_samples=5, matched_samples=3, stopped=True)),
    "stopped at last": ({"tolerance": 0.01}, whole(stopped=True)),
    "trimmed": ({"trim": 0.001}, whole(trimmed={"dropped": 0.01, "correlation": 0.999, "iof": None})),
    "undetected": ({"target": "ground_truth"}, undetected),
    "gradient": ({"explainer": "gradient"}, whole(n_samples=1, matched_samples=1)),
    "not judged": ({}, lambda row: replace(row, **hidden_pixels({"sufficiency": None, "necessity": None}))),
    "nothing hidden": ({"occlusion": False}, whole(occlusion={}, detected_again={})),
}


@pytest.mark.parametrize("kind", LIMITS)
def test_what_an_audit_may_write_is_not(kind):
    settings, change = LIMITS[kind]
    rows = [change(row) for row in GOOD.objects]
    if kind == "rounded score":
        rows = [replace(row, **hidden_pixels(row.occlusion, row.score)) for row in rows]
    refuse_contradictions({**GOOD.fingerprint, **settings}, rows)


def test_more_objects_of_an_image_than_are_audited_are_refused():
    with pytest.raises(ContradictionError, match="image 1 has 2 objects, and max_objects_per_image is 1"):
        refuse_contradictions({**GOOD.fingerprint, "max_objects_per_image": 1}, GOOD.objects)


def test_the_settings_of_every_audit_go_with_their_own_occlusion():
    assert AuditConfig().measured["occlusion"] == GOOD.fingerprint["occlusion"]


def test_the_gate_refuses_such_a_record_on_either_side(tmp_path, capsys):
    write_record(as_baseline(GOOD), tmp_path / "base.json")
    write_record(GOOD, tmp_path / "good.json")
    content = json.loads((tmp_path / "good.json").read_text())
    content["objects"][2]["score"] = 0.1
    (tmp_path / "bad.json").write_text(json.dumps(content))
    assert main(["gate", str(tmp_path / "base.json"), str(tmp_path / "good.json")]) == 0
    assert main(["gate", str(tmp_path / "base.json"), str(tmp_path / "bad.json")]) == 3
    assert "annotation 3 of image 2 has the score 0.1" in capsys.readouterr().err
    with pytest.raises(BrokenInputError, match=r"annotation 3 of image 2 has the score 0\.1"):
        read_record(tmp_path / "bad.json")


def test_further_accepted_audits_are_held_against_the_same_settings(tmp_path):
    other = replace(with_rows(GOOD, lambda row: row), provenance={**GOOD.provenance, "checkpoint_sha256": "d" * 64})
    write_record(replace(as_baseline(GOOD), further=(other,)), tmp_path / "base.json")
    content = json.loads((tmp_path / "base.json").read_text())
    content["further"][0]["objects"][0]["iou"] = 0.1
    (tmp_path / "base.json").write_text(json.dumps(content))
    with pytest.raises(BrokenInputError, match=r"annotation 1 of image 1 has the IoU 0\.1"):
        read_record(tmp_path / "base.json")
