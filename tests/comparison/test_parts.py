"""Finished images on disk: taken up, thrown away, read with care."""

import json
import logging

import pytest
from helpers.comparisons import image_result

from odsg_lightning.comparison.parts import Parts
from odsg_lightning.errors import BrokenInputError

HEAD = {"checkpoint": "abc", "steps": 50, "threads": 1}


@pytest.fixture
def parts(tmp_path):
    parts = Parts(tmp_path / "parts", HEAD)
    parts.open()
    return parts


def test_an_image_comes_back_as_it_was(parts):
    image = image_result(7, {"odam": 0.5, "d_rise": {"iof": None}}, missed=(3,), left_out={"lrp": "no"}, pictures=True)
    parts.add(image)
    assert parts.finished(7) == image
    assert parts.finished(8) is None


def test_the_same_head_goes_on_and_another_begins_again(parts, caplog):
    parts.add(image_result(7, {"odam": 0.5}))
    again = Parts(parts.folder, HEAD)
    again.open()
    assert again.finished(7) is not None
    changed = Parts(parts.folder, {**HEAD, "steps": 10})
    with caplog.at_level(logging.WARNING):
        changed.open()
    assert "thrown away: it differs in 'steps'" in caplog.text
    assert changed.finished(7) is None


def test_what_fits_is_thrown_away_on_request(parts):
    parts.add(image_result(7, {"odam": 0.5}))
    parts.open(throw_away="as asked for")
    assert parts.finished(7) is None


def test_files_of_somebody_else_stay(parts):
    (parts.folder / "thesis.tex").write_text("years of work")
    with pytest.raises(BrokenInputError, match=r"but found .*thesis\.tex"):
        parts.open(throw_away="as asked for")
    assert (parts.folder / "thesis.tex").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.pop("objects"),
        lambda content: content.update(image_id=8),
        lambda content: content["objects"][0].update(score="high"),
        lambda content: content["objects"][0].update(extra=1),
        lambda content: content["objects"][0]["values"]["odam"].update(iof=[]),
        lambda content: content["pictures"].update(photograph='"><script>'),
        lambda content: content["pictures"]["maps"]["odam"].update(score="a b"),
        lambda content: content.update(objects=None),
    ],
)
def test_a_damaged_image_is_explained_again(parts, damage):
    parts.add(image_result(7, {"odam": 0.5}, pictures=True))
    path = parts.folder / "image_7.json"
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    assert parts.finished(7) is None
    path.write_text("{")
    assert parts.finished(7) is None
