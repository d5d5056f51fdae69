import contextlib
import hashlib
import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from odsg_lightning.demo import shapes as shapes_module
from odsg_lightning.demo.drawing import CATEGORIES, Shape, _paint, draw_image
from odsg_lightning.demo.shapes import ShapesDataset, make_shapes

SMALL = {"n_train": 12, "n_val": 5, "size": 96, "seed": 3}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ShapesDataset:
    return make_shapes(tmp_path_factory.mktemp("demo") / "shapes", **SMALL)


def load(annotation_file: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(annotation_file))


def digest(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_files_are_valid_coco(dataset):
    for annotation_file, folder, count in (
        (dataset.train_annotations, dataset.train_images, 12),
        (dataset.val_annotations, dataset.val_images, 5),
    ):
        coco = load(annotation_file)
        assert {"info", "licenses", "images", "annotations", "categories"} <= coco.dataset.keys()
        assert coco.getImgIds() == list(range(1, count + 1))
        assert coco.getAnnIds() == list(range(1, len(coco.dataset["annotations"]) + 1))
        assert [(c["id"], c["name"]) for c in coco.loadCats(coco.getCatIds())] == list(enumerate(CATEGORIES, start=1))
        for image in coco.dataset["images"]:
            pixels = Image.open(folder / image["file_name"])
            assert pixels.mode == "RGB"
            assert pixels.size == (image["width"], image["height"]) == (96, 96)
            assert 1 <= len(coco.getAnnIds(image["id"])) <= 3
        assert len(list(folder.iterdir())) == count


def test_boxes_are_the_extent_of_their_polygons_and_areas_the_area(dataset):
    for annotation in load(dataset.train_annotations).dataset["annotations"]:
        (flat,) = annotation["segmentation"]
        x, y = flat[0::2], flat[1::2]
        width, height = max(x) - min(x), max(y) - min(y)
        assert annotation["bbox"] == pytest.approx([min(x), min(y), width, height], abs=1e-9)
        assert 0 <= min(x) < max(x) <= 96
        assert 0 <= min(y) < max(y) <= 96
        if annotation["category_id"] == 1:
            assert annotation["area"] == pytest.approx(width * height, abs=0.01)
        if annotation["category_id"] == 2:
            assert annotation["area"] == pytest.approx(width * height / 2, abs=0.01)


def test_masks_fill_their_box_to_the_pixel(dataset):
    coco = load(dataset.train_annotations)
    for annotation in coco.dataset["annotations"]:
        rows, columns = np.nonzero(coco.annToMask(annotation))
        x, y, width, height = annotation["bbox"]
        extent = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        box = np.array([x, y, x + width, y + height])
        outside = np.concatenate([box[:2] - extent[:2], extent[2:] - box[2:]])
        assert (outside <= 1).all()
        assert (outside >= -3).all()  # the tip of a star or triangle may be thinner than a pixel
        assert len(rows) == pytest.approx(annotation["area"], rel=0.1)


def test_shapes_are_painted_where_their_polygons_say():
    """The rectangle's own pixels, and not those around it, differ from the same image without it."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        shape = Shape(0, np.array([[40.0, 30.0], [80.0, 30.0], [80.0, 70.0], [40.0, 70.0]]))
        image = np.full((128, 128, 3), 120, dtype=np.float32)
        painted = image.copy()
        _paint(rng, painted, shape)
        changed = np.abs(painted - image).max(axis=-1)
        rows, columns = np.mgrid[:128, :128] + 0.5
        weight = changed / changed.sum()
        assert (weight * columns).sum() == pytest.approx(60, abs=1.5)
        assert (weight * rows).sum() == pytest.approx(50, abs=1.5)
        outside = np.ones((128, 128), dtype=bool)
        outside[26:74, 36:84] = False
        assert changed[outside].max() == 0


def test_every_class_occurs_and_shapes_keep_apart():
    labels = set()
    for index in range(40):
        image, shapes = draw_image(np.random.default_rng(index), 128)
        assert image.shape == (128, 128, 3)
        assert image.dtype == np.uint8
        labels |= {shape.label for shape in shapes}
        for i, shape in enumerate(shapes):
            a = shape.box
            assert min(a) >= 15.9
            assert max(a) <= 112.1
            for other in shapes[:i]:
                b = other.box
                assert max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3]) >= 18
    assert labels == {0, 1, 2}


def test_the_same_seed_gives_the_same_bytes_whatever_the_global_generators(tmp_path, dataset):
    np.random.seed(99)
    random.seed(99)
    state = np.random.get_state()[1].copy()
    again = make_shapes(tmp_path / "again", **SMALL)
    assert digest(again.train_images.parent) == digest(dataset.train_images.parent)
    assert (np.random.get_state()[1] == state).all()


def test_another_seed_and_another_split_give_other_images(tmp_path, dataset):
    other = make_shapes(tmp_path / "other", **{**SMALL, "seed": 4})
    contents = [
        set(digest(folder).values())
        for folder in (dataset.train_images, dataset.val_images, other.train_images, other.val_images)
    ]
    assert len(set.union(*contents)) == 12 + 5 + 12 + 5


def test_a_larger_set_begins_with_the_smaller_one(tmp_path, dataset):
    larger = make_shapes(tmp_path / "larger", **{**SMALL, "n_train": 14})
    small, large = digest(dataset.train_images), digest(larger.train_images)
    assert small.items() < large.items()


def test_the_same_arguments_reuse_the_folder(tmp_path, monkeypatch):
    first = make_shapes(tmp_path / "shapes", **SMALL)
    monkeypatch.setattr(shapes_module, "draw_image", None)  # would fail if called
    assert make_shapes(tmp_path / "shapes", **SMALL) == first


def test_other_arguments_are_refused(tmp_path):
    make_shapes(tmp_path / "shapes", **SMALL)
    before = digest(tmp_path)
    with pytest.raises(ValueError, match=r"Expected the data set in .*'seed': 4.* but got .*'seed': 3"):
        make_shapes(tmp_path / "shapes", **{**SMALL, "seed": 4})
    assert digest(tmp_path) == before


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="absent, empty or a data set written by make_shapes"):
        make_shapes(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "shapes").write_text("")
    with pytest.raises(ValueError, match="absent, empty or a data set"):
        make_shapes(tmp_path / "shapes", **SMALL)


def test_a_coco_file_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "train.json").write_text(json.dumps({"images": [], "info": {}}))
    with pytest.raises(ValueError, match="cannot be read as one"):
        make_shapes(tmp_path, **SMALL)


def test_a_lost_image_is_reported(tmp_path):
    dataset = make_shapes(tmp_path / "shapes", **SMALL)
    (dataset.val_images / "000002.png").unlink()
    with pytest.raises(ValueError, match=r"1 are missing, 000002\.png first"):
        make_shapes(tmp_path / "shapes", **SMALL)


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "shapes").mkdir()
    assert make_shapes(tmp_path / "shapes", **SMALL).val_annotations.is_file()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("no space left on device")])
def test_an_interruption_leaves_nothing(tmp_path, monkeypatch, error):
    drawn = []

    def interrupted(rng, size):
        drawn.append(size)
        if len(drawn) == 14:  # in the second split
            raise error
        return draw_image(rng, size)

    monkeypatch.setattr(shapes_module, "draw_image", interrupted)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else OSError):
        make_shapes(tmp_path / "shapes", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_faster_process_wins_and_its_files_are_used(tmp_path, monkeypatch):
    """As when two ranks start at once."""

    def draw_after_the_other_finished(rng, size):
        monkeypatch.setattr(shapes_module, "draw_image", draw_image)
        make_shapes(tmp_path / "shapes", **SMALL)
        return draw_image(rng, size)

    monkeypatch.setattr(shapes_module, "draw_image", draw_after_the_other_finished)
    dataset = make_shapes(tmp_path / "shapes", **SMALL)
    assert dataset.train_annotations.is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


@pytest.mark.parametrize("wrong", [{"n_train": 0}, {"n_val": 0}, {"size": 63}, {"seed": -1}])
def test_arguments_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="Expected n_train >= 1, n_val >= 1, size >= 64 and seed >= 0, but got"):
        make_shapes(tmp_path / "shapes", **{**SMALL, **wrong})
    assert list(tmp_path.iterdir()) == []


def test_folders_from_before_there_were_frames_stay_valid(dataset):
    arguments = load(dataset.train_annotations).dataset["info"]["arguments"]
    assert arguments == {"recipe": 1, "n_train": 12, "n_val": 5, "size": 96, "seed": 3}
