from dataclasses import replace
from datetime import UTC, datetime

import pytest
from helpers.records import as_baseline, dropped, make_record, write_with_maps

from odsg_lightning.errors import BrokenInputError, UserInputError
from odsg_lightning.records.baseline import accept_baseline
from odsg_lightning.records.maps_file import maps_beside
from odsg_lightning.records.record import read_record, write_record


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
    assert accepted.after == pytest.approx((0.61034, 0.9), abs=1e-5)


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
    assert accepted.before == pytest.approx((0.61034, 0.9), abs=1e-5)
    assert accepted.after == pytest.approx((0.51034, 0.9), abs=1e-3)
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
