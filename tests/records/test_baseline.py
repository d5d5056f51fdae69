import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from helpers.records import as_baseline, as_missed, as_undefined, dropped, make_record, with_rows, write_with_maps

from odsg_lightning.errors import BrokenInputError, UserInputError
from odsg_lightning.records.baseline import accept_baseline
from odsg_lightning.records.maps_file import maps_beside
from odsg_lightning.records.record import read_record, write_record

MEANS = {
    "occlusion/sufficiency": 0.90621,
    "occlusion/necessity": 0.79139,
    "iof/near": 0.90020,
    "audit/recall": 0.9,
}
"""Of ``make_record()``."""


@pytest.fixture
def candidate(tmp_path):
    (tmp_path / "audits").mkdir()
    path = tmp_path / "audits" / "candidate.json"
    write_with_maps(make_record(), path)
    return path


def test_a_record_becomes_a_baseline_with_its_reason_and_maps(candidate, tmp_path):
    output = tmp_path / "baseline.json"
    accepted = accept_baseline(candidate, output, " first model ", today="2026-02-03")
    before, baseline = read_record(candidate), read_record(output)
    assert baseline.accepted == (
        {"reason": "first model", "date": "2026-02-03", "record_sha256": before.content_sha256},
    )
    assert baseline.objects == before.objects
    assert baseline.fingerprint == before.fingerprint
    assert baseline.provenance == before.provenance
    assert baseline.content_sha256 == before.content_sha256
    assert baseline.maps["file"] == "baseline.maps.npz"
    assert maps_beside(output, baseline.maps).keys == maps_beside(candidate, before.maps).keys
    assert accepted.before is None
    assert accepted.after == pytest.approx(MEANS, abs=1e-5)


def test_the_date_is_todays(candidate, tmp_path):
    days = {datetime.now(UTC).date().isoformat()}
    accept_baseline(candidate, tmp_path / "baseline.json", "because")
    days.add(datetime.now(UTC).date().isoformat())  # it may be midnight
    assert read_record(tmp_path / "baseline.json").accepted[0]["date"] in days


def test_history_is_kept_oldest_first(candidate, tmp_path):
    output = tmp_path / "baseline.json"
    accept_baseline(candidate, output, "one")
    write_with_maps(dropped(make_record(), 0.1), candidate, colour=(1, 2, 3))
    accepted = accept_baseline(candidate, output, "two")
    assert [entry["reason"] for entry in read_record(output).accepted] == ["one", "two"]
    assert accepted.before == pytest.approx(MEANS, abs=1e-5)
    assert accepted.after == pytest.approx(MEANS | {"iof/near": MEANS["iof/near"] - 0.1}, abs=1e-3)
    assert maps_beside(output, read_record(output).maps)  # the new ones, in place of the old


def test_without_maps_none_are_copied(candidate, tmp_path):
    accept_baseline(candidate, tmp_path / "baseline.json", "because", with_maps=False)
    assert read_record(tmp_path / "baseline.json").maps is None
    assert not (tmp_path / "baseline.maps.npz").exists()


def test_maps_that_are_missing_are_not_forgotten_silently(candidate, tmp_path):
    candidate.with_suffix(".maps.npz").unlink()
    with pytest.raises(BrokenInputError, match=r"candidate.maps.npz beside .* not there.*--without-maps"):
        accept_baseline(candidate, tmp_path / "baseline.json", "because")
    assert not (tmp_path / "baseline.json").exists()
    accept_baseline(candidate, tmp_path / "baseline.json", "because", with_maps=False)


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_a_blank_reason_is_refused(candidate, tmp_path, reason):
    with pytest.raises(UserInputError, match="Expected a reason"):
        accept_baseline(candidate, tmp_path / "baseline.json", reason)


def test_another_fingerprint_needs_reset(candidate, tmp_path):
    output = tmp_path / "baseline.json"
    accept_baseline(candidate, output, "one")
    content = output.read_bytes()
    write_record(make_record(fingerprint={"n_samples": 5, "audit_set": "b" * 64}), candidate)
    with pytest.raises(BrokenInputError, match=r"differs in audit_set, n_samples. --reset"):
        accept_baseline(candidate, output, "two")
    assert output.read_bytes() == content
    accept_baseline(candidate, output, "two", reset=True)
    assert [entry["reason"] for entry in read_record(output).accepted] == ["one", "two"]


def test_a_file_that_is_no_baseline_is_never_overwritten(candidate, tmp_path):
    with pytest.raises(UserInputError, match="nobody has accepted"):
        accept_baseline(candidate, candidate, "because")
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    with pytest.raises(BrokenInputError, match="Expected an audit record"):
        accept_baseline(candidate, notes, "because")
    assert notes.read_text() == "mine"
    assert not read_record(candidate).is_baseline
    loop = tmp_path / "loop.json"
    loop.symlink_to(loop)
    with pytest.raises(BrokenInputError, match="symbolic link"):
        accept_baseline(candidate, loop, "because")


def test_a_baseline_is_no_candidate(candidate, tmp_path):
    write_record(replace(as_baseline(make_record())), candidate)
    with pytest.raises(BrokenInputError, match="a baseline already"):
        accept_baseline(candidate, tmp_path / "baseline.json", "because")


def test_nothing_is_left_behind_if_the_record_cannot_be_written(candidate, tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("disk full")

    monkeypatch.setattr("odsg_lightning.records.record.write_text", fail)
    with pytest.raises(ValueError, match="disk full"):
        accept_baseline(candidate, tmp_path / "baseline.json", "because")
    assert not (tmp_path / "baseline.json").exists()


# Several --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def trainings(tmp_path):
    """Audits of three checkpoints: paths and records."""
    first = make_record(missed=0.1)
    records = {
        "a": first,
        "b": with_rows(dropped(first, 0.1), lambda row: as_missed(row) if row.annotation_id == 2 else row),
        "c": with_rows(first, lambda row: as_undefined(row, ["x_min"]) if row.annotation_id == 3 else row),
    }
    paths = {}
    for name, record in records.items():
        paths[name] = tmp_path / f"{name}.json"
        write_with_maps(of_checkpoint(record, name), paths[name])
    return paths


def of_checkpoint(record, name):
    return replace(record, provenance={**record.provenance, "checkpoint_sha256": None if name is None else name * 64})


def test_several_audits_become_one_baseline(trainings, tmp_path):
    output = tmp_path / "baseline.json"
    a, b, c = trainings.values()
    accept_baseline(a, output, "three seeds", further=[b, c])
    baseline, records = read_record(output), [read_record(path) for path in trainings.values()]
    assert baseline.objects == records[0].objects
    assert baseline.provenance == records[0].provenance
    assert [(one.objects, one.provenance) for one in baseline.further] == [
        (r.objects, r.provenance) for r in records[1:]
    ]
    assert [one.content_sha256 for one in baseline.further] == [record.content_sha256 for record in records[1:]]
    assert maps_beside(output, baseline.maps).keys == maps_beside(a, records[0].maps).keys
    assert baseline.accepted[-1]["record_sha256"] == baseline.content_sha256 != records[0].content_sha256
    content = json.loads(output.read_text())
    assert "file_name" not in output.read_text()[: output.read_text().index('\n "objects"')]
    assert [row is None for row in content["further"][0]["objects"]] == [row.missed for row in records[1].objects]
    lines = output.read_text().splitlines()
    assert max(map(len, lines)) < 2000  # a line for each object


def test_history_is_kept_by_several_too(trainings, tmp_path):
    output = tmp_path / "baseline.json"
    a, b, c = trainings.values()
    accept_baseline(a, output, "one")
    accept_baseline(b, output, "three", further=[a, c])
    assert [entry["reason"] for entry in read_record(output).accepted] == ["one", "three"]
    accept_baseline(c, output, "one again")
    baseline = read_record(output)
    assert [entry["reason"] for entry in baseline.accepted] == ["one", "three", "one again"]
    assert baseline.further == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: replace(r, fingerprint={**r.fingerprint, "sigma": 0.1}), r"b.json differs from .*a.json in sigma"),
        (lambda r: replace(r, objects=r.objects[1:]), r"b.json has other objects than .*a.json"),
        (lambda r: with_rows(r, lambda row: replace(row, category="eel")), "has other objects"),
        (lambda r: of_checkpoint(r, "a"), r"b.json is of the same checkpoint as .*a.json"),
        (lambda r: of_checkpoint(r, None), r"b.json does not say of which checkpoint"),
        (as_baseline, "a baseline already"),
    ],
)
def test_what_does_not_go_together_is_refused(trainings, tmp_path, change, message):
    a, b, c = trainings.values()
    write_record(change(read_record(b)), b)
    with pytest.raises(BrokenInputError, match=message):
        accept_baseline(a, tmp_path / "baseline.json", "because", further=[c, b])
    assert not (tmp_path / "baseline.json").exists()


def test_the_first_must_say_its_checkpoint_too(trainings, tmp_path):
    a, b, c = trainings.values()
    write_record(of_checkpoint(read_record(a), None), a)
    with pytest.raises(BrokenInputError, match=r"a.json does not say of which checkpoint"):
        accept_baseline(a, tmp_path / "baseline.json", "because", further=[b, c])
    accept_baseline(a, tmp_path / "baseline.json", "because", with_maps=False)  # alone it may be of a training
    with pytest.raises(UserInputError, match="each record once"):
        accept_baseline(b, tmp_path / "baseline.json", "because", further=[b])


BROKEN_FURTHER = {
    "too few objects": (lambda audit: audit["objects"].pop(), "59 objects, the first 60"),
    "another value": (lambda audit: audit["objects"][0]["iof"].update({"score/near": 2}), "oneOf|valid|maximum"),
    "names": (lambda audit: audit["objects"][0].update(image_id=1), "valid|must not contain"),
    "more matched than made": (lambda audit: audit["objects"][0].update(n_samples=1), "matched in more noise samples"),
    "no provenance": (lambda audit: audit.pop("provenance"), "provenance"),
}


@pytest.mark.parametrize("kind", BROKEN_FURTHER)
def test_broken_further_audits_are_told(trainings, tmp_path, kind):
    output = tmp_path / "baseline.json"
    a, b, c = trainings.values()
    accept_baseline(a, output, "because", further=[b, c])
    change, message = BROKEN_FURTHER[kind]
    content = json.loads(output.read_text())
    change(content["further"][0])
    output.write_text(json.dumps(content))
    with pytest.raises(BrokenInputError, match=message):
        read_record(output)
