import json

import numpy as np
import pytest
from PIL import Image

from odsg_lightning.demo.drawing import CATEGORIES, Shape, draw_image
from odsg_lightning.demo.frames import COLOURS, draw_frames
from odsg_lightning.demo.shapes import make_shapes

SMALL = {"n_train": 3, "n_val": 2, "seed": 5}
SQUARE = Shape(1, np.array([[40.0, 30.0], [80.0, 30.0], [80.0, 70.0], [40.0, 70.0]]))


def framed(shapes, frames, size=128, seed=0):
    pixels = np.zeros((size, size, 3), dtype=np.uint8)
    draw_frames(np.random.default_rng(seed), pixels, shapes, frames)
    return pixels


def test_four_brackets_twelve_pixels_outside_the_box_worked_out_by_hand():
    pixels = framed([SQUARE], "at_boxes")
    drawn = np.zeros((128, 128), dtype=bool)
    for rows, columns in (
        *((slice(18, 20), slice(28, 36)), (slice(18, 26), slice(28, 30))),  # upper left: arms of 8, 2 wide
        *((slice(18, 20), slice(84, 92)), (slice(18, 26), slice(90, 92))),
        *((slice(80, 82), slice(28, 36)), (slice(74, 82), slice(28, 30))),
        *((slice(80, 82), slice(84, 92)), (slice(74, 82), slice(90, 92))),
    ):
        drawn[rows, columns] = True
    assert (pixels.any(axis=2) == drawn).all()
    assert (pixels[drawn] == COLOURS[1]).all()


def test_every_class_has_a_colour_of_its_own():
    assert len(set(COLOURS)) == len(CATEGORIES)


@pytest.mark.parametrize("seed", range(30))
def test_frames_at_boxes_lie_inside_the_image_and_off_every_object(seed):
    image, shapes = draw_image(np.random.default_rng(seed), 128)
    before = image.copy()
    draw_frames(np.random.default_rng(0), image, shapes, "at_boxes")
    changed = (image != before).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert 90 * len(shapes) < changed.sum() <= 112 * len(shapes)  # neighbours' brackets may cover one another
    assert min(rows.min(), columns.min()) >= 3
    assert max(rows.max(), columns.max()) <= 124
    for shape in shapes:
        x_min, y_min, x_max, y_max = shape.box
        assert not changed[int(y_min) : int(y_max) + 1, int(x_min) : int(x_max) + 1].any()


def test_frames_anywhere_tell_neither_place_nor_class():
    """Over many images their colour is as often any class's, and a frame is no closer to the box than chance has it."""
    colours, corners = [], []
    for seed in range(300):
        pixels = framed([SQUARE], "anywhere", seed=seed)
        rows, columns = np.nonzero(pixels.any(axis=2))
        assert len(rows) == 112
        colours.append(COLOURS.index(tuple(pixels[rows[0], columns[0]].tolist())))
        corners.append((columns.min(), rows.min()))
    assert np.bincount(colours).min() > 70  # 100 expected, standard deviation 8
    assert np.std(corners, axis=0).min() > 10  # pixels


def test_shapes_beneath_and_annotations_are_the_same_whatever_the_frames(tmp_path):
    plain, at_boxes, anywhere = (
        make_shapes(tmp_path / frames, **SMALL, frames=frames) for frames in ("none", "at_boxes", "anywhere")
    )
    for name in ("train_annotations", "val_annotations"):
        contents = [json.loads(getattr(one, name).read_text()) for one in (plain, at_boxes, anywhere)]
        arguments = [content["info"].pop("arguments") for content in contents]
        assert contents[0] == contents[1] == contents[2]
        assert [found.get("frames") for found in arguments] == [None, "at_boxes", "anywhere"]
    for file in sorted(path.name for path in plain.train_images.iterdir()):
        first, second, third = (np.asarray(Image.open(s.train_images / file)) for s in (plain, at_boxes, anywhere))
        for other in (second, third):
            changed = (first != other).any(axis=2)
            assert 0 < changed.sum() <= 3 * 112
            assert {tuple(pixel) for pixel in other[changed].tolist()} <= set(COLOURS)


def test_a_folder_with_other_frames_is_refused(tmp_path):
    make_shapes(tmp_path / "shapes", **SMALL, frames="at_boxes")
    with pytest.raises(ValueError, match=r"'frames': 'anywhere'.* but got .*'frames': 'at_boxes'"):
        make_shapes(tmp_path / "shapes", **SMALL, frames="anywhere")


def test_unknown_frames_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"frames to be one of \('none', 'at_boxes', 'anywhere'\), but got 'x'"):
        make_shapes(tmp_path / "shapes", **SMALL, frames="x")
    assert list(tmp_path.iterdir()) == []
