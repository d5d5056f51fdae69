import copy
import json
from collections import Counter

import pytest
from helpers.trained import load_samples

from odsg_lightning.data.coco import read_coco
from odsg_lightning.demo.shapes import make_shapes
from odsg_lightning.sanity.labels import permuted


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("shapes"), n_train=12, n_val=2, seed=0)


def test_labels_and_boxes_are_permuted_apart_and_nothing_else(shapes):
    coco = json.loads(shapes.train_annotations.read_text())
    before = copy.deepcopy(coco)
    found = permuted(coco, seed=0)
    assert coco == before
    assert {**found, "annotations": None} == {**before, "annotations": None}
    old, new = before["annotations"], found["annotations"]
    assert [(a["id"], a["image_id"]) for a in new] == [(a["id"], a["image_id"]) for a in old]
    assert Counter(a["category_id"] for a in new) == Counter(a["category_id"] for a in old)
    assert Counter(tuple(a["bbox"]) for a in new) == Counter(tuple(a["bbox"]) for a in old)
    own_box = sum(a["bbox"] == b["bbox"] for a, b in zip(old, new, strict=True)) / len(old)
    own_label = sum(a["category_id"] == b["category_id"] for a, b in zip(old, new, strict=True)) / len(old)
    assert own_box < 0.3
    assert own_label < 0.7  # three classes: a third by chance
    label_of_box = {tuple(a["bbox"]): a["category_id"] for a in old}
    assert any(label_of_box[tuple(a["bbox"])] != a["category_id"] for a in new)  # they do not travel together
    assert permuted(coco, seed=0) == found != permuted(coco, seed=1)


def test_what_is_written_can_be_trained_on(shapes, tmp_path):
    path = tmp_path / "permuted.json"
    path.write_text(json.dumps(permuted(json.loads(shapes.train_annotations.read_text()), seed=0)))
    read = read_coco(path, shapes.train_images, segmentations=False)
    assert not read.skipped
    truth = load_samples(shapes.train_annotations, shapes.train_images)
    assert [len(image.annotations) for image in read.images] == [len(sample.boxes) for sample in truth]


def test_a_box_is_scaled_with_its_image():
    images = [{"id": 1, "width": 100, "height": 50}, {"id": 2, "width": 50, "height": 100}]
    boxes = [[10, 10, 90, 40], [5, 50, 45, 50]]
    annotations = [
        {"id": i, "image_id": i, "category_id": i, "bbox": box, "segmentation": [[1, 1, 2, 2, 1, 2]]}
        for i, box in enumerate(boxes, start=1)
    ]
    found = {}
    for seed in range(6):
        for annotation in permuted({"images": images, "annotations": annotations}, seed)["annotations"]:
            assert "segmentation" not in annotation
            found.setdefault(annotation["id"], set()).add(tuple(annotation["bbox"]))
            assert annotation["area"] == annotation["bbox"][2] * annotation["bbox"][3]
    assert found == {1: {(10, 10, 90, 40), (10, 25, 90, 25)}, 2: {(5, 50, 45, 50), (5, 20, 45, 80)}}
