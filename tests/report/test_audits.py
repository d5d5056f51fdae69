from dataclasses import replace
from pathlib import Path

import pytest
from helpers.records import make_record, write_with_maps

from odsg_lightning.errors import BrokenInputError, UserInputError
from odsg_lightning.records.record import write_record
from odsg_lightning.report.audits import differences, read_audits


def write(*paths: Path) -> list[Path]:
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        write_record(make_record(2), path)
    return list(paths)


def test_records_are_called_by_their_files(tmp_path):
    found = read_audits(write(tmp_path / "a.json", tmp_path / "b.json"))
    assert [(audit.letter, audit.name) for audit in found] == [("A", "a"), ("B", "b")]


def test_names_of_files_that_coincide_are_told_apart(tmp_path):
    paths = write(tmp_path / "old" / "audit.json", tmp_path / "new" / "audit.json", tmp_path / "other.json")
    assert [audit.name for audit in read_audits(paths)] == ["old/audit", "new/audit", "other"]
    twice = read_audits([paths[0], paths[0]])
    assert [audit.name for audit in twice] == ["old/audit", "old/audit (2)"]


def test_letters_go_on_after_z(tmp_path):
    found = read_audits(write(tmp_path / "a.json") * 28)
    assert [found[index].letter for index in (0, 25, 26, 27)] == ["A", "Z", "AA", "AB"]


@pytest.mark.parametrize("names", [["one"], ["same", "same"], ["one", " "]])
def test_names_must_be_one_for_each_record_and_different(tmp_path, names):
    with pytest.raises(UserInputError, match="Expected 2 different names"):
        read_audits(write(tmp_path / "a.json", tmp_path / "b.json"), names)


def test_no_record_is_refused():
    with pytest.raises(UserInputError, match="at least one audit record"):
        read_audits([])


def test_maps_are_found_beside_the_record_and_need_not_be_there(tmp_path):
    path = tmp_path / "a.json"
    write_with_maps(make_record(2), path)
    assert read_audits([path])[0].maps.keys
    path.with_suffix(".maps.npz").unlink()
    assert read_audits([path])[0].maps is None


def test_maps_of_another_record_are_refused(tmp_path):
    path = tmp_path / "a.json"
    write_with_maps(make_record(2), path)
    path.with_suffix(".maps.npz").write_bytes(b"something else")
    with pytest.raises(BrokenInputError, match="its content is another"):
        read_audits([path])


def test_settings_that_differ_are_named(tmp_path):
    paths = write(tmp_path / "a.json")
    others = {"b": make_record(2, fingerprint={"sigma": 0.1, "tolerance": 0.01}), "c": make_record(2)}
    for name, record in others.items():
        write_record(record, tmp_path / f"{name}.json")
        paths.append(tmp_path / f"{name}.json")
    found = {difference.field: difference.values for difference in differences(read_audits(paths))}
    assert found == {"sigma": ("0.05", "0.1", "0.05"), "tolerance": ("(absent)", "0.01", "(absent)")}
    assert differences(read_audits([paths[0], paths[2]])) == []


def test_other_objects_are_a_difference_too(tmp_path):
    paths = write(tmp_path / "a.json", tmp_path / "b.json")
    record = make_record(2)
    write_record(replace(record, objects=record.objects[:-1]), paths[1])
    (found,) = differences(read_audits(paths))
    assert (found.field, found.values) == ("objects", ("6, 6 of them in A", "5, 5 of them in A"))
