import subprocess
import sys

import numpy as np
import pytest
import torch

from odsg_lightning.viz.panels import colors
from odsg_lightning.viz.strip import (
    DETECTED,
    FOREGROUND,
    GROUND_TRUTH,
    SEGMENTATION,
    HiddenPixels,
    object_strip,
)

BOX = torch.tensor([40.0, 30.0, 90.0, 80.0])
TOP, LEFT, PANEL, STEP = 44, 12, 192, 200  # where the panels of a square image lie at the default height


def example(height=128, width=128, box=BOX):
    """A grey image, one bright spot per map, its foreground and a rectangular segmentation."""
    x_min, y_min, x_max, y_max = (int(v) for v in box)
    image = torch.full((3, height, width), 120.0)
    maps = torch.zeros(5, height, width)
    middle_x, middle_y = (x_min + x_max) // 2, (y_min + y_max) // 2
    spots = ((middle_y, x_min), (y_min, middle_x), (middle_y, x_max - 1), (y_max - 1, middle_x), (middle_y, middle_x))
    for one_map, (y, x) in zip(maps, spots, strict=True):
        one_map[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3] = 1e-4
        one_map[y, x] = 3e-4
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[y_min:y_max, x_min:x_max] = True
    return image, maps, maps > 0, mask


def draw(image, maps, foreground, mask, box=BOX, detected=BOX, title="cat, image 42, annotation 7", **options):
    return object_strip(
        image, maps, foreground, ground_truth_box=box, detected_box=detected, mask=mask, title=title, **options
    )


def panel(strip, index):
    left = LEFT + index * STEP
    return strip[TOP : TOP + PANEL, left : left + PANEL]


def found(picture, color):
    return (picture == np.array(color, dtype=np.uint8)).all(axis=-1)


def test_it_is_an_rgb_image_with_eight_panels():
    strip = draw(*example())
    assert strip.dtype == np.uint8
    assert strip.shape == (326, 2 * LEFT + 7 * STEP + PANEL, 3)
    gaps = strip[TOP : TOP + PANEL, LEFT + PANEL : LEFT + STEP]
    assert (gaps == strip[0, 0]).all()


def test_inputs_are_left_alone_and_the_result_is_reproducible():
    arguments = example()
    copies = [tensor.clone() for tensor in arguments]
    first, second = draw(*arguments), draw(*arguments)
    assert (first == second).all()
    assert all(torch.equal(a, b) for a, b in zip(arguments, copies, strict=True))


def test_the_hottest_color_lies_at_the_maximum_of_each_map():
    image, maps, _, _ = example()
    strip = draw(image, maps, None, None)
    for i in range(5):
        picture = panel(strip, 1 + i).astype(float)
        row, column = np.argwhere(np.abs(picture - colors()[-1]).sum(axis=-1) <= 6).mean(axis=0)
        y, x = divmod(int(maps[i].argmax()), 128)
        assert row == pytest.approx((y + 0.5) * 1.5 - 0.5, abs=1)
        assert column == pytest.approx((x + 0.5) * 1.5 - 0.5, abs=1)


def test_a_map_is_normalised_by_itself():
    image, maps, foreground, mask = example()
    scaled = maps * torch.tensor([1e-6, 1.0, 1e3, 1e6, 1.0])[:, None, None]
    assert (draw(image, maps, foreground, mask) == draw(image, scaled, foreground, mask)).all()


def test_the_ground_truth_box_is_drawn_around_the_object():
    strip = draw(*example(), detected=None)
    rows, columns = np.nonzero(found(panel(strip, 0), GROUND_TRUTH))
    assert [columns.min(), columns.max()] == [59, 135]  # 40 and 90, enlarged 1.5 times, two pixels wide
    assert [rows.min(), rows.max()] == [44, 120]
    assert not found(panel(strip, 0), DETECTED).any()
    top_line = found(panel(strip, 0), GROUND_TRUTH)[44, 59:136]
    assert 0.4 < top_line.mean() < 0.7  # dashed


def test_both_boxes_show_where_they_coincide():
    photograph = panel(draw(*example()), 0)
    assert found(photograph, GROUND_TRUTH).sum() > 200
    assert found(photograph, DETECTED).sum() > 200


def test_a_shifted_detection_is_drawn_where_it_is():
    rows, columns = np.nonzero(found(panel(draw(*example(), detected=BOX + 20), 0), DETECTED))
    assert [columns.min(), columns.max()] == [89, 165]
    assert [rows.min(), rows.max()] == [74, 150]


def test_the_outlines_follow_foreground_and_segmentation():
    strip = draw(*example())
    for i in range(1, 6):
        assert found(panel(strip, i), FOREGROUND).any()
    rows, columns = np.nonzero(found(panel(strip, 5), SEGMENTATION))
    assert [columns.min(), columns.max(), rows.min(), rows.max()] == [60, 134, 45, 119]
    interior = found(panel(strip, 5), SEGMENTATION)[50:110, 65:130]
    assert not interior.any()
    rows, columns = np.nonzero(found(panel(strip, 5), FOREGROUND))
    assert [rows.mean(), columns.mean()] == pytest.approx([82.5, 97.5], abs=1)


def test_the_photograph_shows_through_where_a_map_is_low():
    image, maps, foreground, mask = example()
    image[:, :20, :20] = 250
    corner = panel(draw(image, maps, foreground, mask), 1)
    assert corner[10, 10].mean() > corner[180, 180].mean() + 30
    assert np.ptp(corner[10, 10].astype(int)) <= 2  # grey


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_an_undefined_map_says_so(value):
    image, maps, foreground, mask = example()
    maps[2] = value
    strip = draw(image, maps, foreground, mask)
    defined = draw(*example())
    assert strip.shape == defined.shape
    for i in (0, 1, 2, 4, 5):
        assert (panel(strip, i) == panel(defined, i)).all()
    undefined = panel(strip, 3)
    assert not found(undefined, FOREGROUND).any()
    assert np.ptp(undefined.astype(int), axis=-1).max() <= 8  # no color of a map
    assert (undefined[80:112] > 220).any()  # the word


def test_a_missed_object_differs_from_an_undefined_one_and_has_the_same_size():
    image, maps, foreground, mask = example()
    missed = draw(image, None, None, mask, detected=None)
    undefined = draw(image, maps * float("nan"), foreground, mask)
    assert missed.shape == undefined.shape == draw(image, maps, foreground, mask).shape
    assert found(panel(missed, 0), GROUND_TRUTH).any()
    for i in range(1, 8):
        assert (panel(missed, i) == panel(missed, 1)).all()
        assert (panel(missed, i) != panel(undefined, i)).any()
    hidden = [HiddenPixels("score 0.90", image, BOX)] * 2
    assert (draw(image, None, None, mask, detected=None, hidden=hidden) == missed).all()


def test_the_size_depends_on_image_and_object_alone():
    box = torch.tensor([400.0, 300.0, 460.0, 420.0])
    image, maps, foreground, mask = example(800, 1344, box)
    shapes = {
        draw(
            *(image, maps, foreground, mask),
            **{"box": box, "detected": detected, "title": title, "captions": captions, "hidden": [hidden] * 2},
        ).shape
        for detected in (box, box + 25, None)
        for title, captions in (("", None), ("long " * 200, ["c" * 100] * 5))
        for hidden in (HiddenPixels(), HiddenPixels("not detected", image), HiddenPixels("score 0.90", image, box))
    }
    shapes.add(draw(image, None, None, mask, box=box, detected=None).shape)
    assert len(shapes) == 1


def test_a_small_object_in_a_large_image_is_enlarged():
    box = torch.tensor([400.0, 300.0, 460.0, 360.0])
    image, maps, foreground, mask = example(800, 1344, box)
    strip = draw(image, maps, foreground, mask, box=box, detected=None)
    _, columns = np.nonzero(found(strip[TOP : TOP + PANEL, LEFT : LEFT + PANEL], GROUND_TRUTH))
    assert np.ptp(columns) > 60  # a fifth of that without enlargement


def test_a_window_that_would_leave_out_little_shows_the_whole_image():
    box = torch.tensor([0.0, 0.0, 600.0, 450.0])  # with its surroundings 960 x 720
    strip = draw(*example(800, 1344, box), box=box, detected=None)
    assert strip.shape[1] == 2 * LEFT + 7 * 8 + 8 * round(192 * 1344 / 800)


def test_a_box_along_the_border_of_the_image_is_visible_on_all_sides():
    box = torch.tensor([0.0, 0.0, 128.0, 128.0])
    lines = found(panel(draw(*example(box=box), box=None, detected=box), 0), DETECTED)
    for side in (lines[:2], lines[-2:], lines[:, :2], lines[:, -2:]):
        assert side.all()
    assert not lines[2:-2, 2:-2].any()


def test_a_maximum_outside_the_view_is_announced():
    box = torch.tensor([400.0, 300.0, 460.0, 360.0])
    image, maps, _, _ = example(800, 1344, box)
    inside = draw(image, maps, None, None, box=box)
    maps[0, 790, 1340] = 1.0
    outside = draw(image, maps, None, None, box=box)
    changed = (inside != outside).any(axis=-1)
    left, right = LEFT + PANEL, LEFT + STEP + PANEL
    assert changed[TOP + PANEL - 22 : TOP + PANEL, left:right].any()
    assert not changed[:, right + 8 :].any()
    hot = np.abs(outside[TOP : TOP + PANEL, left:right].astype(int) - colors()[-1]).sum(axis=-1) < 60
    assert not hot.any()  # colors refer to the maximum that is not seen


@pytest.mark.parametrize(
    "box",
    [(0, 0, 2, 2), (1342, 798, 1344, 800), (0, 0, 1344, 800), (-30, -20, 5, 4), (1343, 0, 1500, 3), (50, 50, 50, 50)],
)
def test_boxes_at_and_beyond_the_border_are_drawn(box):
    image, maps, foreground, _ = example(800, 1344)
    box = torch.tensor(box, dtype=torch.float32)
    strip = draw(image, maps, foreground, None, box=box, detected=box)
    assert found(strip[TOP : TOP + PANEL], GROUND_TRUTH).any()


def test_a_diverged_detection_costs_nothing_and_changes_no_other_panel():
    image, maps, foreground, mask = example()
    wild = torch.tensor([-1e30, float("nan"), 1e30, float("inf")])
    strip = draw(image, maps, foreground, mask, detected=wild)
    assert (strip[:, LEFT + PANEL :] == draw(image, maps, foreground, mask)[:, LEFT + PANEL :]).all()


def test_nothing_but_the_image_is_needed():
    image = example()[0]
    strip = draw(image, None, None, None, box=None, detected=None)
    assert not found(panel(strip, 0), GROUND_TRUTH).any()
    assert (panel(strip, 0) == 120).all()


def test_the_pictures_with_hidden_pixels_are_shown_in_colour_with_the_box_that_was_detected_again():
    image, *parts = example()
    red, blue = torch.zeros(3, 128, 128), torch.zeros(3, 128, 128)
    red[0], blue[2] = 200, 250
    hidden = [HiddenPixels("score 0.93", red, BOX + 20), HiddenPixels("not detected", blue)]
    strip = draw(image, *parts, hidden=hidden)
    alone, without = panel(strip, 6), panel(strip, 7)
    rows, columns = np.nonzero(found(alone, DETECTED))
    assert [columns.min(), columns.max(), rows.min(), rows.max()] == [89, 165, 74, 150]
    assert (found(alone, (200, 0, 0)) | found(alone, DETECTED)).all()
    assert found(without, (0, 0, 250)).all()


def test_what_the_detector_said_stands_below_its_picture():
    image, *parts = example()
    words = ("score 0.93", "not detected")
    strips = [draw(image, *parts, hidden=[HiddenPixels(one, image)] * 2) for one in ("", *words)]
    below = slice(TOP + PANEL + 22, TOP + PANEL + 44)
    for said, other in ((strips[1], strips[2]), (strips[2], strips[1])):
        for columns in (slice(LEFT + 6 * STEP, LEFT + 6 * STEP + PANEL), slice(LEFT + 7 * STEP, -LEFT)):
            assert (said[below, columns] != strips[0][below, columns]).any()
            assert (said[below, columns] != other[below, columns]).any()
        changed = (said != strips[0]).any(axis=-1)
        assert not changed[: below.start].any()
        assert not changed[:, : LEFT + 6 * STEP].any()


def test_a_hidden_picture_is_shown_through_the_window_of_the_photograph():
    box = torch.tensor([400.0, 300.0, 460.0, 360.0])
    image, *parts = example(800, 1344, box)
    image[:, 300:360, 400:460] = 250
    strip = draw(image, *parts, box=None, detected=None, hidden=[HiddenPixels("", image)] * 2)
    width = (strip.shape[1] - 2 * LEFT + 8) // 8
    photograph, alone, without = (
        strip[TOP : TOP + PANEL, LEFT + i * width : LEFT + (i + 1) * width - 8] for i in (0, 6, 7)
    )
    assert (photograph == 250).any()
    assert (photograph == alone).all()
    assert (photograph == without).all()


def test_what_was_not_asked_says_why():
    image, *parts = example()
    unjudged, off, neither = (
        draw(image, *parts, hidden=[HiddenPixels(word)] * 2) for word in ("not judged", "switched off", "")
    )
    assert (unjudged == draw(image, *parts)).all()
    for strip in (unjudged, off):
        assert np.ptp(panel(strip, 6).astype(int), axis=-1).max() <= 8  # grey
        assert (panel(strip, 6)[80:112] > 220).any()  # the words
        assert (panel(strip, 6) == panel(strip, 7)).all()
        assert (panel(strip, 6) != panel(neither, 6)).any()
        assert not (strip != unjudged).any(axis=-1)[:, : LEFT + 6 * STEP].any()
    assert (panel(unjudged, 6) != panel(off, 6)).any()


@pytest.mark.parametrize(("height", "width"), [(1000, 100), (100, 1000)])
def test_extreme_images_keep_their_proportions(height, width):
    box = torch.tensor([5.0, 5.0, width - 5.0, height - 5.0])
    strip = draw(*example(height, width, box), box=box, detected=None)
    picture = strip[TOP : TOP + PANEL]
    rows, columns = np.nonzero(found(picture, GROUND_TRUTH))
    assert (np.ptp(rows) > 5 * np.ptp(columns)) == (height > width)
    assert strip.shape[1] <= 2 * LEFT + 7 * 8 + 8 * 336


def test_a_long_title_and_long_captions_stay_in_their_place():
    image, *parts = example()
    plain = draw(image, *parts, title="", hidden=[HiddenPixels("", image)] * 2)
    hidden = [HiddenPixels("caption " * 20, image)] * 2
    long = draw(image, *parts, title="long " * 100, captions=["caption " * 20] * 5, hidden=hidden)
    changed = (plain != long).any(axis=-1)
    assert not changed[TOP : TOP + PANEL + 22].any()  # panels and names
    assert not changed[:, :LEFT].any()
    assert not changed[:, -LEFT:].any()
    columns = changed[TOP + PANEL + 22 :].any(axis=0)
    for i in range(8):
        assert not columns[LEFT + i * STEP - 8 : LEFT + i * STEP].any()  # between captions
    assert not columns[: LEFT + STEP].any()  # the photograph has none


def test_the_panel_height_is_kept():
    strip = draw(*example(), panel_height=256)
    assert strip.shape == (326 + 64, 2 * LEFT + 7 * 8 + 8 * 256, 3)


def test_any_float_type_is_taken():
    image, maps, foreground, mask = example()
    expected = draw(image, maps, foreground, mask)
    assert (draw(image.double(), maps.double().requires_grad_(), foreground, mask) == expected).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": torch.zeros(1, 128, 128)}, r"Expected image of shape \[3, 128, 128\], but got \[1, 128, 128\]"),
        ({"maps": torch.zeros(4, 128, 128)}, r"Expected maps of shape \[5, 128, 128\], but got \[4, 128, 128\]"),
        ({"foreground": torch.zeros(5, 9, 9)}, r"Expected foreground of shape \[5, 128, 128\], but got \[5, 9, 9\]"),
        ({"mask": torch.zeros(9, 9)}, r"Expected mask of shape \[128, 128\], but got \[9, 9\]"),
        ({"box": torch.zeros(1, 4)}, r"Expected ground_truth_box of shape \[4\], but got \[1, 4\]"),
        ({"detected": torch.zeros(5)}, r"Expected detected_box of shape \[4\], but got \[5\]"),
        ({"captions": ["one"]}, "Expected 5 captions, but got 1"),
        ({"hidden": [HiddenPixels()]}, "Expected 2 hidden pictures, but got 1"),
        (
            {"hidden": [HiddenPixels(), HiddenPixels("", torch.zeros(3, 9, 9))]},
            r"Expected the picture of 'without the object' of shape \[3, 128, 128\], but got \[3, 9, 9\]",
        ),
        (
            {"hidden": [HiddenPixels("", None, torch.zeros(1, 4)), HiddenPixels()]},
            r"Expected the box of 'object alone' of shape \[4\], but got \[1, 4\]",
        ),
        ({"panel_height": 100}, "Expected panel_height to be at least 160, but got 100"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    arguments = dict(zip(("image", "maps", "foreground", "mask"), example(), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        draw(**arguments)


def test_it_does_without_pyplot():
    code = "import sys, odsg_lightning.viz.strip; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestStacked:
    def test_every_panel_stands_two_a_row_in_the_order_of_the_axes(self):
        options = {"captions": [f"caption {i}" for i in range(5)], "hidden": (HiddenPixels("first"), HiddenPixels())}
        row, stack = (draw(*example(), **options, stacked=stacked) for stacked in (False, True))
        assert stack.shape[1] == 2 * LEFT + STEP + PANEL
        top, pitch = TOP + 24, PANEL + 58  # a second line of title; name and caption below each panel
        for place, index in enumerate((0, 5, 1, 3, 2, 4, 6, 7)):
            y, x = top + place // 2 * pitch, LEFT + place % 2 * STEP
            with_words = slice(y, y + pitch - 16)
            expected = row[TOP : TOP + pitch - 16, LEFT + index * STEP : LEFT + index * STEP + PANEL]
            assert (stack[with_words, x : x + PANEL] == expected).all(), index

    def test_what_is_known_of_the_object_stands_below_its_name(self):
        long, short, nothing = (
            draw(*example(), title=title, stacked=True) for title in ("cat: " + "long " * 50, "cat: short", "cat")
        )
        assert long.shape == short.shape == nothing.shape
        first, second = slice(TOP - 8), slice(TOP - 8, TOP + 24)
        assert (long[first] == nothing[first]).all()
        assert (short[second] != nothing[second]).any()
        assert (long[TOP + 24 :] == nothing[TOP + 24 :]).all()

    def test_the_legend_is_whole(self):
        """As many pixels of each colour as in the legend of one row."""
        for color in (GROUND_TRUTH, DETECTED, FOREGROUND, SEGMENTATION):
            row, stack = (draw(*example(), stacked=stacked) for stacked in (False, True))
            assert found(row[TOP + PANEL + 8 :], color).sum() == found(stack[-90:], color).sum() > 0

    def test_a_detection_without_ground_truth_has_three_rows(self):
        assert draw(*example(), hidden=None, stacked=True).shape[0] < draw(*example(), stacked=True).shape[0] - PANEL
