import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from helpers.records import hidden_pixels

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.errors import BrokenInputError
from odsg_lightning.names import IOF_NAMES, MAP_NAMES
from odsg_lightning.records.maps_file import ObjectMaps, maps_beside, maps_path
from odsg_lightning.records.partial import PartialAudit
from odsg_lightning.records.record import AuditRecord, ObjectRow, read_record, write_record_with_maps

ORIGIN = {
    **{"checkpoint": "m.ckpt", "checkpoint_sha256": "1" * 64, "step": None, "git_commit": None, "git_dirty": None},
    "versions": {"torch": "2"},
}
HEAD = AuditRecord({"audit_set": "0" * 64, **AuditConfig().measured}, ORIGIN, ())


def row(image_id, annotation_id, iof=0.5):
    values = {"iou": 0.9, "score": 0.95, "box": (1.0, 2.0, 3.0, 4.0), "matched_samples": 3, "n_samples": 20}
    values["iof"] = {name: iof if name.endswith(("object", "near")) else iof and iof / 4 for name in IOF_NAMES}
    values["box_maps"] = dict.fromkeys(MAP_NAMES, iof)
    values |= hidden_pixels({"sufficiency": iof, "necessity": None})
    return ObjectRow(image_id, annotation_id, "a.png", "cat", **({} if iof is None else values))


def maps(seed):
    values = np.random.default_rng(seed).random((5, 6, 7))
    return ObjectMaps(values.astype(np.float16), values > 0.5, b"")


def unfinished(tmp_path, head=HEAD, **settings):
    return PartialAudit(tmp_path / "candidate.json", head, {"engine": "cut", **settings})


@pytest.fixture
def begun(tmp_path):
    audit = unfinished(tmp_path)
    audit.open()
    audit.add([row(4, 41), row(4, 40, None)], {(4, 41): maps(1)})
    audit.add([row(2, 20)], {(2, 20): maps(2)})
    return audit


def test_finished_images_are_taken_up(begun, tmp_path):
    again = unfinished(tmp_path)
    again.open()
    assert begun.folder.name == ".candidate.partial"
    assert again.finished(4, [40, 41]) == (row(4, 40, None), row(4, 41))
    assert again.finished(2, [20]) == (row(2, 20),)
    assert again.finished(3, [30]) is None
    stored = list(again.maps([4, 2]))
    assert [key for key, _ in stored] == [(2, 20), (4, 41)]
    assert np.array_equal(stored[1][1].maps, maps(1).maps)
    assert np.array_equal(stored[1][1].foreground, maps(1).foreground)
    again.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"engine": "windowed"}, "settings"),
        ({"head": replace(HEAD, provenance=ORIGIN | {"checkpoint_sha256": "2" * 64})}, "provenance"),
        ({"head": replace(HEAD, fingerprint={**HEAD.fingerprint, "seed": 1})}, "fingerprint"),
    ],
)
def test_another_head_throws_away_and_says_so(begun, tmp_path, other, named, caplog):
    audit = unfinished(tmp_path, **other)
    audit.open()
    assert f"it differs in '{named}'" in caplog.text
    assert audit.finished(2, [20]) is None
    assert [path.name for path in audit.folder.iterdir()] == ["head.json"]


def test_a_restart_throws_away(begun, tmp_path, caplog):
    audit = unfinished(tmp_path)
    audit.open(throw_away="as asked for")
    assert "as asked for" in caplog.text
    assert audit.finished(2, [20]) is None


def forge(folder):
    """Another audit's image, under the name of this one's."""
    other = replace(HEAD, provenance=ORIGIN | {"checkpoint_sha256": "2" * 64}, objects=(row(2, 20, 0.9),))
    write_record_with_maps(other, folder / "image_2.json", [((2, 20), maps(2))])


def one_map_too_few(folder):
    write_record_with_maps(replace(HEAD, objects=(row(2, 20),)), folder / "image_2.json", [])


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "image_2.json").write_bytes((folder / "image_2.json").read_bytes()[:-30]),
        lambda folder: (folder / "image_2.maps.npz").write_bytes(b"PK"),
        lambda folder: (folder / "image_2.maps.npz").unlink(),
        lambda folder: (folder / "image_4.json").replace(folder / "image_2.json"),
        forge,
        one_map_too_few,
    ],
)
def test_a_damaged_or_foreign_part_is_audited_again(begun, tmp_path, damage, caplog):
    damage(begun.folder)
    audit = unfinished(tmp_path)
    audit.open()
    assert audit.finished(2, [20]) is None
    assert "Image id 2 is audited again" in caplog.text


def test_other_objects_than_the_sets_are_audited_again(begun, caplog):
    assert begun.finished(4, [40]) is None
    assert begun.finished(4, [40, 41, 42]) is None
    assert caplog.text.count("holds another audit") == 2


@pytest.mark.parametrize("head", ["{", "[]", '{"fingerprint": {}}'])
def test_a_damaged_head_throws_away(begun, tmp_path, head, caplog):
    (begun.folder / "head.json").write_text(head)
    with caplog.at_level(logging.WARNING):
        unfinished(tmp_path).open()
    assert "is thrown away" in caplog.text
    assert not (begun.folder / "image_2.json").exists()


def test_leftovers_of_a_killed_process_are_removed(begun, tmp_path):
    (begun.folder / ".image_7.json-abc.json").write_text("half")
    unfinished(tmp_path).open(throw_away="as asked for")
    assert [path.name for path in begun.folder.iterdir()] == ["head.json"]


def test_files_of_somebody_else_are_not_removed(begun, tmp_path):
    (begun.folder / "thesis.txt").write_text("years of work")
    with pytest.raises(BrokenInputError, match=r"but found .*thesis\.txt"):
        unfinished(tmp_path).open(throw_away="as asked for")
    assert (begun.folder / "thesis.txt").exists()
    assert (begun.folder / "image_2.json").exists()


def test_a_link_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".candidate.partial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BrokenInputError, match="to be a folder of an unfinished audit"):
        unfinished(tmp_path).open()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_record_never_lacks_its_maps(tmp_path):
    path = tmp_path / "r.json"
    written = write_record_with_maps(replace(HEAD, objects=(row(2, 20),)), path, [((2, 20), maps(2))])
    assert read_record(path) == written
    assert maps_beside(path, written.maps).keys == {(2, 20)}
    assert maps_path(path).name == "r.maps.npz"
    without = write_record_with_maps(replace(HEAD, objects=(row(2, 20),)), tmp_path / "s.json")
    assert without.maps is None
    assert json.loads((tmp_path / "s.json").read_text())["maps"] is None


def test_maps_that_cannot_be_written_leave_nothing(tmp_path):
    wrong = replace(maps(2), foreground=np.zeros((5, 1, 1), bool))
    with pytest.raises(ValueError, match=r"shape \[5, h, w\]"):
        write_record_with_maps(replace(HEAD, objects=(row(2, 20),)), tmp_path / "r.json", [((2, 20), wrong)])
    assert list(tmp_path.iterdir()) == []
