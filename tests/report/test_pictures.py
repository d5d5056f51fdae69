"""Strips as the package draws them, found again by their looks."""

import base64
import io
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from drawn_strips import lossy, strip
from helpers.records import as_unjudged, make_record, webp
from PIL import Image

from odsg_lightning.names import PARAMETERS
from odsg_lightning.report.pictures import PANELS, panel_columns, strip_rows
from odsg_lightning.viz.strip import HIDDEN_NAMES

ROW = make_record(1, 1, missed=0.0).objects[0]


def decoded(url):
    with Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/webp;base64,")))) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_the_names_are_those_of_the_strip():
    assert ("photograph", *PARAMETERS, *HIDDEN_NAMES) == PANELS


@pytest.mark.parametrize(
    "drawn",
    [
        {},
        {"height": 300, "width": 120, "box": (10, 10, 110, 290)},
        {"height": 120, "width": 500, "box": (5, 5, 480, 110)},  # with bars above and below
        {"height": 97, "width": 331, "box": (5, 5, 300, 90)},
        {"colour": 255},
        {"colour": 0},
        {"colour": 60},
    ],
)
def test_every_panel_is_found(drawn):
    pixels = strip(**drawn)
    with Image.open(io.BytesIO(lossy(pixels))) as picture:
        seen = np.asarray(picture.convert("RGB"))
    panels = panel_columns(seen)
    assert len(panels) == 8
    assert len({right - left for left, right in panels}) == 1
    assert (panels[0][0], panels[-1][1]) == (12, pixels.shape[1] - 12)
    assert {after[0] - before[1] for before, after in pairwise(panels)} == {8}


def test_two_rows_hold_all_panels_and_nothing_else():
    pixels = strip()
    above, below = strip_rows(lossy(pixels), ROW, "A")
    assert (above.height, below.height) == (192, 192)  # neither the title nor the captions
    (left, _), *_, (_, right) = panel_columns(pixels)
    assert above.width + below.width + 8 == right - left
    for row, start in ((above, left), (below, right - below.width)):
        shown, expected = decoded(row.url), pixels[44:236, start : start + row.width].astype(int)
        assert shown.shape == expected.shape == (row.height, row.width, 3)
        assert np.corrcoef(shown.ravel(), expected.ravel())[0, 1] > 0.9


def test_each_panel_has_its_name_and_what_it_says():
    row = replace(ROW, iof={**ROW.iof, "x_min/object": 0.25, "x_min/near": None})
    above, below = strip_rows(lossy(strip()), row, "A")
    captions = dict((*above.captions, *below.captions))
    assert tuple(captions) == PANELS
    assert (len(above.captions), len(below.captions)) == (4, 4)
    assert captions["x_min"] == "object 0.25, near undefined"
    score = row.detected_again["sufficiency/blur"]["score"]
    assert captions["object alone"] == f"score {score:.2f}"
    assert above.alt == "A: cat, photograph, x_min, y_min, x_max"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (as_unjudged(ROW), "not judged"),
        (replace(ROW, occlusion={}, detected_again={}), "not asked"),
        (replace(ROW, detected_again={"necessity/inpaint": {"score": 0.0, "iou": 0.0, "shift": None}}), "not detected"),
    ],
)
def test_what_the_detector_says_without_the_object(row, words):
    _, below = strip_rows(lossy(strip()), row, "A")
    assert dict(below.captions)["without the object"] == words


def test_a_strip_of_an_earlier_version_has_six_panels():
    pixels = strip()
    panels = panel_columns(pixels)
    six = np.concatenate([pixels[:, : panels[5][1]], pixels[:, -12:]], axis=1)
    above, below = strip_rows(lossy(six), ROW, "A")
    assert [name for name, _ in above.captions] == list(PANELS[:3])
    assert [name for name, _ in below.captions] == list(PANELS[3:6])


@pytest.mark.parametrize("content", [webp((200, 100, 50)), webp((200, 100, 50), (1000, 330))])
def test_another_picture_stays_whole_and_as_it_was(content):
    (row,) = strip_rows(content, ROW, "A")
    assert row.captions == ()
    assert "Share of each map on the object: x_min" in row.alt
    assert base64.b64decode(row.url.partition(",")[2]) == content
