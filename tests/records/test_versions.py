"""Records as version 1 wrote them, read as records of today. Hashes are those that version 1 itself computed."""

import copy
import json

import pytest
from helpers.mutations import CHANGES, VALUES, change_at, places
from helpers.records import as_baseline, dropped, make_record
from hypothesis import given, settings
from hypothesis import strategies as st

from odsg_lightning.errors import BrokenInputError
from odsg_lightning.gate import compare_files
from odsg_lightning.names import BOX_PARAMETERS, PARAMETERS, REGIONS
from odsg_lightning.records.record import ObjectRow, read_record, write_record
from odsg_lightning.records.versions import converted

SHA = "af6a9e1c6bd85266c50dbcd158eaf3a9491ac4d6a8eec47f175f3764ecc6bd63"
"""The hash of what is below, by version 1."""

THIRD_SHA = "b1ce15a62001ae0056780cc93572e23b7e756a5979a7c1fb39f8676f0e28db8f"
"""The hash of :func:`third`, by version 3."""

SECOND_SHA = "1ca89fb8e261b4635ce11908ec85085a28463bf29f954d17d62e4419e6b3c141"
"""The hash of the same, by version 2."""

IOF = {
    **{
        f"{parameter}/{region}": round(0.04 * i + 0.01 * j, 6)
        for i, parameter in enumerate(BOX_PARAMETERS)
        for j, region in enumerate((*REGIONS, "object"))
    },
    "score/object": 0.16,
}
"""The 17 values that versions 1 and 2 knew."""

NEAR = {f"{parameter}/near": None for parameter in PARAMETERS}
FIRST = {
    "schema": "odsg-audit-record/1",
    "fingerprint": {
        "audit_set": "a" * 64,
        "method": "smoothgrad",
        "n_samples": 20,
        "sigma": 0.05,
        "match_iou": 0.7,
        "pair_iou": 0.5,
        "score_threshold": 0.9,
        "blur_sigma": 2.0,
        "threshold": 0.32,
        "seed": 0,
        "max_objects_per_image": None,
    },
    "provenance": {
        "checkpoint": "best.ckpt",
        "checkpoint_sha256": "b" * 64,
        "step": 40,
        "git_commit": None,
        "git_dirty": None,
        "versions": {"torch": "2.12.1"},
    },
    "metrics": {
        "val/map": 0.5,
        "audit/coverage": 0.5,
        "audit/match_rate": 0.95,
        "drift/x_min/pearson": 0.9,
        "drift/ssim": -0.25,
        "drift/mask_iou": None,
        "drift/n_objects": 1.0,
        "drift_ref/pearson": 1.0,
        "drift_floor/score/ssim": 0.123456,
        "drift_floor/n_objects": 2.0,
    },
    "maps": None,
    "accepted": [
        {"reason": "before", "date": "2026-01-01", "record_sha256": "e" * 64},
        {"reason": "first", "date": "2026-01-31", "record_sha256": SHA},
    ],
    "objects": [
        {
            "image_id": 1,
            "annotation_id": 10,
            "file_name": "1.png",
            "category": "cat",
            "status": "detected",
            "iou": 0.8,
            "score": 0.95,
            "box": [1.0, 2.0, 30.5, 40.0],
            "matched_passes": 19,
            "n_samples": 20,
            "iof": IOF,
        },
        {"image_id": 2, "annotation_id": 5, "file_name": "2.png", "category": "dog", "status": "missed"},
    ],
}


def first():
    return copy.deepcopy(FIRST)


def written(folder, content):
    path = folder / "record.json"
    path.write_text(json.dumps(content))
    return path


# What is converted --------------------------------------------------------------------------------------------------


def test_objects_keep_their_values(tmp_path):
    assert read_record(written(tmp_path, FIRST)).objects == (
        ObjectRow(
            1,
            10,
            "1.png",
            "cat",
            0.8,
            0.95,
            (1.0, 2.0, 30.5, 40.0),
            matched_samples=19,
            n_samples=20,
            iof={**IOF, **NEAR},
        ),
        ObjectRow(2, 5, "2.png", "dog"),
    )


def test_settings_and_origin_stay_as_they_are(tmp_path):
    record = read_record(written(tmp_path, FIRST))
    settings = {name: value for name, value in FIRST["fingerprint"].items() if name != "method"}
    assert record.fingerprint == {**settings, "explainer": "smoothgrad", "target": "output"}
    assert record.provenance == FIRST["provenance"]
    assert record.maps is None


def test_metrics_get_their_new_names_and_drift_becomes_a_distance(tmp_path):
    assert read_record(written(tmp_path, FIRST)).metrics == {
        "val/map": 0.5,
        "audit/recall": 0.5,
        "audit/match_rate": 0.95,
        "drift/x_min/pearson": 0.1,
        "drift/ssim": 1.25,
        "drift/mask_iou": None,
        "drift/n_objects": 1.0,
        "drift_ref/pearson": 0.0,
        "drift_noise/score/ssim": 0.876544,
        "drift_noise/n_objects": 2.0,
    }


def test_a_file_is_converted_as_it_is_read_and_never_changed(tmp_path):
    path = written(tmp_path, FIRST)
    before = path.read_bytes()
    record = read_record(path)
    assert path.read_bytes() == before
    write_record(record, tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text())["schema"] == "odsg-audit-record/4"
    assert read_record(tmp_path / "again.json") == record


def second():
    """The same record as version 2 wrote it."""
    content = first()
    content["schema"] = "odsg-audit-record/2"
    content["objects"][0]["matched_samples"] = content["objects"][0].pop("matched_passes")
    content["metrics"] = {"audit/recall": 0.5, "drift/ssim": 0.25, "drift_noise/ssim": None}
    content["accepted"][-1]["record_sha256"] = SECOND_SHA
    return content


def test_a_record_of_version_2_is_read_with_the_same_values(tmp_path):
    record = read_record(written(tmp_path, second()))
    assert record.objects == read_record(written(tmp_path, FIRST)).objects
    assert record.metrics == second()["metrics"]  # nothing of them is converted once more
    assert record.accepted[-1]["record_sha256"] == record.content_sha256


def test_what_version_2_did_not_measure_is_undefined_or_empty(tmp_path):
    for content in (first(), second()):
        row, missed = read_record(written(tmp_path, content)).objects
        assert {name: row.iof[name] for name in NEAR} == NEAR
        assert (row.box_mean("near"), row.undefined) == (None, ())
        assert row.box_maps == row.edges == row.occlusion == row.detected_again == {}
        assert missed.missed


def test_a_row_of_version_2_with_values_of_version_3_is_refused(tmp_path):
    for name in ("box_maps", "occlusion", "detected_again"):
        content = second()
        content["objects"][0][name] = {}
        with pytest.raises(BrokenInputError, match="must contain"):
            read_record(written(tmp_path, content))


def third():
    """A baseline of two audits as version 3 wrote it."""
    shares = {"edge": 0.2, "middle": 0.1, "opposite": 0.05, "object": 0.4, "near": 0.5}
    iof = {f"{parameter}/{region}": share for parameter in BOX_PARAMETERS for region, share in shares.items()}
    content = second()
    content["schema"] = "odsg-audit-record/3"
    content["fingerprint"] |= {"near_threshold": 0.5, "near_margin": 0.2, "occlusion": False}
    row = content["objects"][0]
    row["iof"] = iof | {"score/object": 0.16, "score/near": 0.5}
    row |= {"box_maps": {"area_ratio": 1.5, "relevance_mass": 0.5, "pointing_game": 1.0}}
    row |= {"occlusion": {}, "detected_again": {}}
    names = ("image_id", "annotation_id", "file_name", "category", "status")
    values = {name: value for name, value in row.items() if name not in names} | {"score": 0.99}
    provenance = {**content["provenance"], "checkpoint_sha256": "d" * 64}
    content["further"] = [{"provenance": provenance, "objects": [None, values]}]
    content["accepted"][-1]["record_sha256"] = THIRD_SHA
    return content


def test_a_baseline_of_version_3_is_read_with_its_further_audits_and_its_hash(tmp_path):
    record = read_record(written(tmp_path, third()))
    assert (record.fingerprint["explainer"], record.fingerprint["target"]) == ("smoothgrad", "output")
    assert "method" not in record.fingerprint
    (further,) = record.further
    assert [row.edges for row in (*record.objects, *further.objects)] == [{}] * 4
    assert [row.missed for row in (*record.objects, *further.objects)] == [False, True, True, False]
    assert further.objects[1].score == 0.99
    assert record.accepted[-1]["record_sha256"] == record.content_sha256
    edited = third()
    edited["further"][0]["objects"][1]["score"] = 0.98
    record = read_record(written(tmp_path, edited))
    assert record.accepted[-1]["record_sha256"] != record.content_sha256


def test_what_version_3_did_not_know_is_refused_there(tmp_path):
    content = third()
    content["objects"][0]["edges"] = {}
    with pytest.raises(BrokenInputError, match="edges must be object"):
        read_record(written(tmp_path, content))
    content = third()
    content["objects"][0]["status"] = "missed"
    with pytest.raises(BrokenInputError, match="is missed and has values, and target is 'output'"):
        read_record(written(tmp_path, content))


def test_nothing_but_earlier_versions_is_converted():
    for content in ({**first(), "schema": "odsg-audit-record/4"}, {**first(), "schema": "other"}, {}, [], None, 1, "x"):
        assert converted(content) is content


def test_an_older_baseline_is_compared_with_a_candidate_of_today(tmp_path):
    record = make_record(20, 3, missed=0.1)
    write_record(as_baseline(record), tmp_path / "baseline.json")
    old = json.loads((tmp_path / "baseline.json").read_text())
    old["schema"] = "odsg-audit-record/1"
    for row in old["objects"]:
        if row["status"] == "detected":
            row["matched_passes"] = row.pop("matched_samples")
    (tmp_path / "baseline.json").write_text(json.dumps(old))
    for name, candidate, verdict in (
        ("same", record, "pass"),
        ("worse", dropped(record, 0.2, ["necessity"]), "regression"),
    ):
        write_record(candidate, tmp_path / f"{name}.json")
        assert compare_files(tmp_path / "baseline.json", tmp_path / f"{name}.json").verdict == verdict


# The hash of what was accepted --------------------------------------------------------------------------------------


def test_the_hash_of_an_untouched_baseline_follows(tmp_path):
    record = read_record(written(tmp_path, FIRST))
    assert record.content_sha256 != SHA
    assert record.accepted == (
        FIRST["accepted"][0],
        {"reason": "first", "date": "2026-01-31", "record_sha256": record.content_sha256},
    )


def test_neither_the_layout_nor_the_order_of_a_file_matters_to_the_hash(tmp_path):
    content = first()
    content["objects"].reverse()
    path = tmp_path / "record.json"
    path.write_text(json.dumps(content, indent=4, sort_keys=True))
    record = read_record(path)
    assert record.accepted[-1]["record_sha256"] == record.content_sha256


@pytest.mark.parametrize(
    "edit",
    [
        lambda c: c["objects"][0].update(score=0.96),
        lambda c: c["objects"][0].update(matched_passes=20),
        lambda c: c["objects"][0]["iof"].update({"score/object": None}),
        lambda c: c["objects"].pop(),
        lambda c: c["fingerprint"].update(seed=1),
        lambda c: c["provenance"].update(checkpoint_sha256="c" * 64),
    ],
)
def test_the_hash_of_an_edited_baseline_does_not_follow(tmp_path, edit):
    content = first()
    edit(content)
    record = read_record(written(tmp_path, content))
    assert record.accepted == tuple(FIRST["accepted"])
    assert record.content_sha256 != SHA


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c.update(accepted=5), "data.accepted must be array"),
        (lambda c: c.update(accepted=True), "data.accepted must be array"),
        (lambda c: c.update(accepted="x"), "data.accepted must be array"),
        (lambda c: c.update(accepted=[]), "data.accepted must contain at least 1"),
        (lambda c: c.update(accepted=[5]), r"data.accepted\[0\] must be object"),
        (lambda c: c["accepted"][-1].pop("record_sha256"), "record_sha256"),
        (lambda c: c.update(objects=[5]), r"data.objects\[0\] must be object"),
        (lambda c: c.update(objects={}), "data.objects must be array"),
        (lambda c: c["objects"].append(None), r"data.objects\[2\] must be object"),
        (lambda c: c["objects"][0].update(image_id="x"), r"data.objects\[0\].image_id must be integer"),
        (lambda c: c["objects"][1].update(annotation_id=None), r"data.objects\[1\].annotation_id must be integer"),
        (lambda c: c["objects"][0].pop("matched_passes"), "matched_samples"),
        (lambda c: c["objects"][0].update(matched_samples=3), r"data.objects\[0\] must not contain {'matched_passes'}"),
        (lambda c: c["objects"][0].update(matched_passes=21), "matched in more noise samples than were made"),
        (lambda c: c["objects"].append(c["objects"][0]), "annotation 10 of image 1 comes twice"),
        (lambda c: c.update(metrics=[]), "data.metrics must be object"),
        (lambda c: c.pop("metrics"), r"must contain \['metrics'\]"),
        (lambda c: c["metrics"].update({"drift/ssim": True}), "data.metrics.drift/ssim must be number or null"),
        (lambda c: c["metrics"].update({"drift/ssim": "0.5"}), "data.metrics.drift/ssim must be number or null"),
        (lambda c: c["metrics"].update({"audit/coverage": []}), "data.metrics.audit/recall must be number or null"),
        (lambda c: c.update(extra=1), r"must not contain {'extra'}"),
    ],
)
def test_what_version_1_did_not_write_is_refused_by_the_schema(tmp_path, damage, message):
    content = first()
    damage(content)
    path = written(tmp_path, content)
    with pytest.raises(BrokenInputError, match=message) as caught:
        read_record(path)
    assert f"Expected an audit record at {path}" in str(caught.value)


@pytest.mark.parametrize("place", ['"score": 0.95', '"sigma": 0.05', '"drift/ssim": -0.25'])
def test_a_number_beyond_all_floats_is_refused(tmp_path, place):
    path = written(tmp_path, FIRST)
    text = path.read_text()
    assert text.count(place) == 1
    path.write_text(text.replace(place, f"{place.partition(':')[0]}: 1e999"))
    with pytest.raises(BrokenInputError, match=r"must be (smaller|bigger)"):
        read_record(path)


PLACES = [path for path in places(FIRST) if path]


@given(path=st.sampled_from(PLACES), change=st.sampled_from(CHANGES), value=st.sampled_from(VALUES))
@settings(deadline=None, max_examples=500)
def test_any_change_of_a_value_is_read_or_refused(tmp_path_factory, path, change, value):
    content = first()
    change_at(content, path, change, value)
    # 1e999 is JSON that Python reads as an infinity; the word is none.
    text = json.dumps(content).replace("Infinity", "1e999")
    file = tmp_path_factory.getbasetemp() / "mutated.json"
    file.write_text(text)
    try:
        record = read_record(file)
    except BrokenInputError as error:
        assert_named(file, error)
        return
    write_record(record, file)
    assert read_record(file) == record


def assert_named(file, error):
    assert f"Expected an audit record at {file}" in str(error)


def test_what_version_1_never_wrote_is_not_taken_for_it(tmp_path):
    content = copy.deepcopy(FIRST)
    content["metrics"]["drift/speed"] = 0.3  # somebody's own: neither likeness nor distance
    assert converted(content)["metrics"]["drift/speed"] == 0.3
    row = content["objects"][0]
    row["matched_samples"] = row.pop("matched_passes")
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(BrokenInputError, match="matched_passes"):
        read_record(tmp_path / "a.json")
