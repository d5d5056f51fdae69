import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from odsg_lightning.errors import BrokenInputError
from odsg_lightning.names import IOF_NAMES
from odsg_lightning.records.record import AuditRecord, ObjectRow, read_record, write_record

FINGERPRINT = {
    "audit_set": "a" * 64,
    "explainer": "smoothgrad",
    "target": "output",
    "n_samples": 20,
    "sigma": 0.05,
    "match_iou": 0.7,
    "pair_iou": 0.5,
    "score_threshold": 0.9,
    "blur_sigma": 2.0,
    "threshold": 0.32,
    "near_threshold": 0.5,
    "near_margin": 0.2,
    "occlusion": "blur + grey, inpaint",
    "sufficiency_margin": 0.1,
    "necessity_margin": 0.1,
    "seed": 0,
    "max_objects_per_image": None,
}
PROVENANCE = {
    "checkpoint": "best.ckpt",
    "checkpoint_sha256": "b" * 64,
    "step": None,
    "git_commit": None,
    "git_dirty": None,
    "versions": {"torch": "2.12.1"},
}
VALUES = {n: round((0.01 if n.endswith(("object", "near")) else 0.003) * i, 6) for i, n in enumerate(IOF_NAMES)}
BOX_MAPS = {"area_ratio": 1.25, "relevance_mass": 0.5, "pointing_game": None}
EDGES = {"enrichment/x_max/edge": 2.5, "position/x_min": 0.25, "position/y_min": None}
OCCLUSION = {"sufficiency": 0.0, "necessity": None}
AGAIN = {
    "sufficiency/blur": {"score": 0.9, "iou": 0.8, "shift": [0.1, -0.25, 0.0, 1.5]},
    "sufficiency/grey": {"score": 0.0, "iou": 0.0, "shift": None},
    "necessity/inpaint": None,
}


def detected(image_id=1, annotation_id=10, **changes) -> ObjectRow:
    row = ObjectRow(image_id, annotation_id, "1.png", "cat", 0.8, 0.95, (1.0, 2.0, 30.5, 40.0), 19, 20, VALUES)
    row = replace(row, box_maps=BOX_MAPS, edges=EDGES, occlusion=OCCLUSION, detected_again=AGAIN)
    return replace(row, **changes)


def record(*rows: ObjectRow, **changes) -> AuditRecord:
    rows = rows or (detected(), ObjectRow(2, 5, "2.png", "dog"))
    return replace(AuditRecord(FINGERPRINT, PROVENANCE, rows), **changes)


@pytest.fixture
def written(tmp_path):
    write_record(record(), tmp_path / "record.json")
    return tmp_path / "record.json"


def changed(path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_what_is_written_is_read(tmp_path):
    accepted = ({"reason": "first", "date": "2026-11-23", "record_sha256": "c" * 64},)
    full = record(metrics={"val/map": 0.5, "drift/x_min/ssim": None}, accepted=accepted)
    full = replace(full, maps={"file": "record.maps.npz", "sha256": "d" * 64})
    write_record(full, tmp_path / "record.json")
    assert read_record(tmp_path / "record.json") == full


def test_each_object_is_one_line(written):
    lines = [line for line in written.read_text().splitlines() if '"annotation_id"' in line]
    assert len(lines) == 2
    assert json.loads(lines[1]) == {
        "image_id": 2,
        "annotation_id": 5,
        "file_name": "2.png",
        "category": "dog",
        "status": "missed",
    }


def test_objects_come_in_the_order_of_their_ids(tmp_path):
    write_record(record(detected(2, 1), detected(1, 7), detected(1, 3)), tmp_path / "record.json")
    assert [row.key for row in read_record(tmp_path / "record.json").objects] == [(1, 3), (1, 7), (2, 1)]


def test_summaries_of_an_object():
    values = dict.fromkeys(IOF_NAMES, 0.0) | {"x_min/object": 0.5, "y_min/object": None, "x_max/object": 1.0}
    values |= {"x_min/near": 0.75, "y_min/near": None, "score/near": 1.0}
    row = detected(iof=values)
    assert row.box_mean("near") == pytest.approx(0.25)  # without the score's
    assert row.object_iof == pytest.approx((0.5 + 1.0 + 0.0) / 3)  # the undefined one is left out
    assert row.undefined == ("y_min",)
    assert not row.missed
    assert detected(iof=dict.fromkeys(IOF_NAMES)).object_iof is None
    missed = ObjectRow(1, 1, "1.png", "cat")
    assert (missed.missed, missed.object_iof, missed.undefined) == (True, None, ())


def test_the_content_hash_is_of_what_was_measured(tmp_path):
    first = record()
    accepted = ({"reason": "x", "date": "2026-11-23", "record_sha256": first.content_sha256},)
    assert replace(first, accepted=accepted, metrics={"val/map": 1.0}).content_sha256 == first.content_sha256
    for other in (
        detected(score=0.96),
        detected(occlusion={}),
        detected(box_maps={}),
        detected(edges={}),
        detected(detected_again={}),
    ):
        assert record(other).content_sha256 != record(detected()).content_sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(schema="odsg-audit-record/5"), "its schema is 'odsg-audit-record/5', not"),
        (lambda c: c.pop("fingerprint"), "must contain ['fingerprint'] properties"),
        (lambda c: c.update(extra=1), "must not contain {'extra'} properties"),
        (lambda c: c.update(objects=[]), "data.objects must contain at least 1 items"),
        (lambda c: c["fingerprint"].pop("seed"), "data.fingerprint must contain"),
        (lambda c: c["fingerprint"].pop("target"), "data.fingerprint must contain"),
        (lambda c: c["fingerprint"].update(target="input"), "data.fingerprint.target must be one of"),
        (lambda c: c["fingerprint"].update(audit_set="x"), "data.fingerprint.audit_set must match"),
        (lambda c: c["objects"].append(c["objects"][0]), "annotation 10 of image 1 comes twice"),
        (lambda c: c["objects"][0].update(score=1.5), "data.objects[0].score must be smaller"),
        (lambda c: c["objects"][0].update(score=None), "data.objects[0].score must be number"),
        (lambda c: c["objects"][0].update(status="found"), "data.objects[0].status must be one of"),
        (lambda c: c["objects"][0].update(status="missed"), "is missed and has values"),
        (
            lambda c: c["objects"][0].update(matched_samples=21),
            "matched in more noise samples than were made",
        ),
        (lambda c: c["objects"][0].update(box=[1, 2, 3]), "data.objects[0].box must contain at least 4"),
        (lambda c: c["objects"][0]["iof"].update({"x_min/edge": "0.1"}), "data.objects[0].iof.x_min/edge must be"),
        (lambda c: c["objects"][0]["iof"].pop("score/object"), "data.objects[0].iof must contain"),
        (lambda c: c["objects"][0]["iof"].pop("x_max/near"), "data.objects[0].iof must contain"),
        (lambda c: c["objects"][0].pop("box_maps"), "data.objects[0] must contain"),
        (lambda c: c["objects"][0].pop("occlusion"), "data.objects[0] must contain"),
        (lambda c: c["objects"][0].pop("detected_again"), "data.objects[0] must contain"),
        (lambda c: c["objects"][0]["box_maps"].update(area_ratio=-1), "data.objects[0].box_maps.area_ratio must be"),
        (lambda c: c["objects"][0]["box_maps"].update(mass=0.5), "data.objects[0].box_maps must not contain {'mass'}"),
        (
            lambda c: c["objects"][0]["edges"].update({"position/x_max": "1"}),
            "data.objects[0].edges.position/x_max must",
        ),
        (lambda c: c["objects"][0]["edges"].update({"position/score": 0.5}), "data.objects[0].edges must not contain"),
        (lambda c: c["objects"][0]["occlusion"].update(necessity=1.5), "data.objects[0].occlusion.necessity must be"),
        (lambda c: c["objects"][0]["occlusion"].update(recall=1), "data.objects[0].occlusion must not contain"),
        (lambda c: c["objects"][0]["detected_again"].update(blur=None), "detected_again must not contain {'blur'}"),
        (lambda c: c["objects"][0]["detected_again"]["sufficiency/blur"].pop("iou"), "detected_again.sufficiency/blur"),
        (lambda c: c["objects"][0]["detected_again"]["sufficiency/blur"].update(shift=[0]), "sufficiency/blur"),
        (lambda c: c["objects"][1].update(score=0.5), "data.objects[1] must not contain {'score'}"),
        (lambda c: c.update(maps={"file": "../x.npz", "sha256": "0" * 64}), "maps"),
        (lambda c: c.update(maps={"file": "..\\x.npz", "sha256": "0" * 64}), "maps"),
        (lambda c: c.update(maps={"file": "/x.npz", "sha256": "0" * 64}), "maps"),
        (lambda c: c.update(accepted=[]), "data.accepted must contain at least 1"),
        (lambda c: c["objects"][0].update(image_id=10**30), "data.objects[0].image_id must be smaller"),
    ],
)
def test_a_wrong_record_is_refused_and_the_place_named(written, change, message):
    changed(written, change)
    with pytest.raises(BrokenInputError, match=re.escape(message)) as error:
        read_record(written)
    assert str(written) in str(error.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e400"])
def test_a_number_that_is_none_is_refused(written, number):
    text = written.read_text()
    written.write_text(text.replace('"score": 0.95', f'"score": {number}', 1))
    with pytest.raises(BrokenInputError, match=r"NaN|Infinity|smaller"):
        read_record(written)


def test_a_list_is_no_record(written):
    written.write_text("[]")
    with pytest.raises(BrokenInputError, match="data must be object"):
        read_record(written)


def test_an_impossible_record_is_not_written(tmp_path):
    for wrong in (record(detected(score=float("nan"))), record(detected(), detected()), record(detected(iou=2.0))):
        with pytest.raises(ValueError, match=r"must|twice|NaN|Out of range"):
            write_record(wrong, tmp_path / "record.json")
    assert list(tmp_path.iterdir()) == []


def test_reading_a_record_loads_no_torch(written):
    code = f"import sys; from odsg_lightning.records.record import read_record; read_record({str(written)!r});"
    code += "from odsg_lightning.records import maps_file; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert subprocess.run([sys.executable, "-c", f"import torch; {code}"], check=False).returncode == 1
