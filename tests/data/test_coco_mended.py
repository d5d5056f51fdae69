"""What costs less than the object: faults of masks, boxes over the border, numbers that a table library wrote."""

import json
import logging
import math
import re

import pytest
import torch
from helpers.coco_files import CROWD, CocoFiles, annotation_record, image_record, make_data, rectangle

from odsg_lightning.data.coco import read_coco
from odsg_lightning.data.coco_masks import segmentation_mask
from odsg_lightning.errors import BrokenInputError, UserInputError
from odsg_lightning.training.average_precision import CocoAveragePrecision
from odsg_lightning.types import Detections

GOOD = rectangle(4, 6, 10, 8)
RLE = {"size": [30, 40], "counts": [100, 5, 1095]}
BROKEN_MASKS = {
    "empty polygon": ([[]], "at least 3 points .* but got 0 numbers"),
    "stray point": ([*GOOD, [7, 8]], "at least 3 points .* but got 2 numbers"),
    "two points": ([[1, 2, 3, 4]], "at least 3 points .* but got 4 numbers"),
    "two points beside a good one": ([*GOOD, [1, 2, 3, 4]], "at least 3 points .* but got 4 numbers"),
    "odd polygon": ([[1, 2, 3, 4, 5, 6, 7]], "3 points .* but got 7 numbers"),
    "flat": ([[5, 5, 9, 5, 7, 5]], "to enclose an area"),
    "flat and slanted": ([*GOOD, [0.1, 0.2, 0.3, 0.6, 0.2, 0.4, 5.1, 10.2]], "to enclose an area"),
    "one point three times": ([[5, 5, 5, 5, 5, 5]], "to enclose an area"),
    "far": ([[1, 2, 1e9, 4, 5, 6]], "one lies far outside"),
    "relative": ([[0.1, 0.1, 0.5, 0.1, 0.5, 0.9]], r"in pixels, but got .* relative \(0 to 1\)"),
    "not a number": ([[1, 2, math.nan, 4, 5, 6]], "each polygon to be a list of finite numbers"),
    "text": ("abc", "to be polygons or RLE, but got 'abc'"),
    "texts": (["1", "2"], "each polygon to be a list of finite numbers"),
    "RLE size": ({**RLE, "size": [40, 30]}, r"RLE to be \[30, 40\], but got"),
    "RLE empty": ({**RLE, "counts": [1200]}, "its area is zero"),
    "RLE sum": ({**RLE, "counts": [1, 2]}, "add up to 1200 pixels, but got 3"),
    "RLE negative": ({**RLE, "counts": [1201, -1]}, "of at least 0"),
    "RLE half": ({**RLE, "counts": [100.5, 4.5, 1095]}, "of at least 0"),
    "RLE counts": ({"size": [30, 40]}, "to be a list or a string, but got None"),
    "RLE garbage": ({**RLE, "counts": "é"}, "but: invalid compressed RLE"),
    "RLE cut": ({**RLE, "counts": "oo"}, "but: truncated compressed RLE"),
}


@pytest.fixture
def files(tmp_path):
    return CocoFiles(tmp_path)


def read(files, **options):
    files.write()
    return read_coco(files.json, files.images_dir, **options)


@pytest.mark.parametrize("bad_records", ["error", "skip"])
@pytest.mark.parametrize("name", BROKEN_MASKS)
def test_a_fault_of_the_mask_costs_the_mask_only(files, name, bad_records, caplog):
    segmentation, message = BROKEN_MASKS[name]
    files.annotations = [annotation_record(11, 1, segmentation=segmentation), annotation_record(12, 2)]

    coco = read(files, bad_records=bad_records)

    broken, sound = (a for image in coco.images for a in image.annotations)
    assert (broken.box, broken.segmentation) == ((4.0, 6.0, 14.0, 14.0), None)
    assert sound.segmentation == GOOD
    assert coco.skipped == ()
    (line,) = coco.mended
    assert re.match(rf"1 objects whose mask cannot be used, .*: annotation id 11 \(image id 1, .*{message}", line)
    assert [line in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("segmentation", [[], None, {}, "absent"])
def test_objects_without_a_mask_among_others_are_counted(files, segmentation):
    files.annotations = [annotation_record(i, 1, segmentation=segmentation) for i in range(10, 15)]
    if segmentation == "absent":
        for record in files.annotations:
            del record["segmentation"]
    files.annotations.append(annotation_record(20, 2))

    coco = read(files)

    assert [len(image.annotations) for image in coco.images] == [5, 1]
    (line,) = coco.mended
    assert line.startswith("5 objects without a mask, trained on and evaluated by their boxes, left out of the audit: ")
    assert line.count("annotation id") == 3


def test_objects_without_a_usable_mask_are_evaluated_but_not_audited(train, val):
    val.annotations = [
        annotation_record(11, 1, segmentation=[]),
        annotation_record(12, 1, segmentation=[[1, 2]]),
        annotation_record(13, 1),
    ]
    data = make_data(train, val, audit_images=1)
    assert len(data.val_dataset[0]["target"]["boxes"]) == 3
    assert data.audit_samples()[0].annotation_ids == (13,)


def test_a_file_none_of_whose_masks_can_be_used_is_refused_by_the_audit_with_a_cure(train, val):
    val.annotations = [annotation_record(11, 1, segmentation=[[1, 2]])]
    with pytest.raises(UserInputError, match=r'none that can be used.*audit_masks="box" .*`odsg audit-set` --masks'):
        make_data(train, val).audit_samples()


def average_precision(data):
    """Of detections beside each object, with ties, so that leaving out or reordering an object changes it."""
    metric, dataset = CocoAveragePrecision("pycocotools"), data.val_dataset
    generator = torch.Generator().manual_seed(0)
    for index in range(len(dataset)):
        target = dataset[index]["target"]
        boxes = target["boxes"] + torch.randn(len(target["boxes"]), 4, generator=generator)
        scores = (torch.rand(len(boxes), generator=generator) * 4).round() / 4
        metric.update(dataset[index]["image_id"], Detections(boxes, scores, target["labels"]), target)
    return {name: value.item() for name, value in metric.compute().items()}


def test_average_precision_is_the_same_to_the_last_digit_with_mask_faults_and_without(train, val):
    val.images = [image_record(i) for i in range(1, 9)]
    val.annotations = [
        annotation_record(10 * i + k, i, category_id=(3, 7)[k % 2], bbox=[2 + 9 * k, 3 + i, 8, 9 + k])
        for i in range(1, 9)
        for k in range(4)
    ]
    mended = average_precision(make_data(train, val))
    faults = [segmentation for segmentation, _ in BROKEN_MASKS.values()] + [[], None]
    for record, fault in zip(val.annotations, faults, strict=False):
        record["segmentation"] = fault
    assert 0 < mended["map"] < 1
    for bad_records in ("error", "skip"):
        assert average_precision(make_data(train, val, bad_records=bad_records)) == mended


def test_a_polygon_may_lack_the_brackets_around_it(files):
    files.annotations = [annotation_record(11, 1, segmentation=GOOD[0])]
    coco = read(files)
    assert coco.images[0].annotations[0].segmentation == GOOD
    assert coco.mended == ()


@pytest.mark.parametrize("bad_records", ["error", "skip"])
def test_boxes_over_the_border_are_clipped_and_counted(files, bad_records):
    boxes = {"left": [-3, 2, 10, 4], "above": [1, -5, 10, 9], "right": [31, 2, 20, 4], "all": [-9, -9, 90, 90]}
    files.annotations = [annotation_record(i, 1, bbox=box) for i, box in enumerate(boxes.values())]

    coco = read(files, bad_records=bad_records)

    clipped = [a.box for a in coco.images[0].annotations]
    assert clipped == [(0, 2, 7, 6), (1, 0, 11, 4), (31, 2, 40, 6), (0, 0, 40, 30)]
    line = next(line for line in coco.mended if "over the border" in line)
    assert re.match(r"4 boxes over the border, clipped to their image: annotation id 0 .*: \[-3, 2, 10, 4\];", line)


@pytest.mark.parametrize("bad_records", ["error", "skip"])
@pytest.mark.parametrize("segmentation", [[], None])
def test_a_file_of_relative_boxes_is_refused_with_that_word(files, bad_records, segmentation):
    boxes = [[0, 0, 1, 1], [0.5, 0.25, 0.25, 0.5], [0.2, 0.4, 0.81, 0.1]]
    files.annotations = [annotation_record(i, 1, bbox=box, segmentation=segmentation) for i, box in enumerate(boxes)]
    with pytest.raises(
        BrokenInputError, match=r"are relative \(0 to 1\), such as \[0, 0, 1, 1\] in an image of height"
    ):
        read(files, bad_records=bad_records)


def test_one_small_box_is_not_taken_for_relative(files):
    files.annotations = [annotation_record(11, 1, bbox=[0, 0, 1, 1]), annotation_record(12, 1)]
    assert len(read(files).images[0].annotations) == 2


def test_a_file_of_corners_is_refused_but_large_objects_over_the_border_are_not(files):
    corners = [[2 * i, i, 2 * i + 12, i + 18] for i in range(12)]
    files.annotations = [annotation_record(i, 1, bbox=box, segmentation=None) for i, box in enumerate(corners)]
    with pytest.raises(BrokenInputError, match=r"are XYXY \[x1, y1, x2, y2\], such as \[0, 0, 12, 18\]"):
        read(files, bad_records="skip")
    large = [[1, 1, 38, 28]] * 10 + [[2, 1, 40, 28]] * 2
    files.annotations = [annotation_record(i, 1, bbox=box, segmentation=None) for i, box in enumerate(large)]
    assert len(read(files).images[0].annotations) == 12


def test_whole_numbers_may_be_written_as_floats(files):
    files.annotations.append(annotation_record(13, 1, **CROWD))
    files.annotations.append(annotation_record(14, 1, segmentation=RLE))
    as_integers = read(files)
    text = re.sub(r"(?<![\w.\"])(-?\d+)(?=[,\]}\s])", r"\1.0", files.json.read_text())
    assert json.loads(text)["images"][0]["id"] == 1.0
    files.json.write_text(text)

    as_floats = read_coco(files.json, files.images_dir)

    assert as_floats == as_integers
    assert all(type(a.id) is type(a.label) is int for image in as_floats.images for a in image.annotations)
    rle = as_floats.images[0].annotations[-1].segmentation
    assert (segmentation_mask(rle, 30, 40) == segmentation_mask(RLE, 30, 40)).all()


@pytest.mark.parametrize("flag", [1, 1.0, True])
def test_a_crowd_flag_may_be_written_as_a_number_or_a_truth_value(files, flag):
    files.annotations = [annotation_record(11, 1, **(CROWD | {"iscrowd": flag})), annotation_record(12, 1)]
    assert [a.iscrowd for a in read(files).images[0].annotations] == [True, False]


@pytest.mark.parametrize("name", ["id", "image_id", "category_id"])
@pytest.mark.parametrize("number", [2**53, -(2**53), 0])
def test_ids_of_any_size_that_json_keeps(train, val, name, number):
    record = annotation_record(11, 1)
    record[name] = number
    val.annotations = [record]
    if name == "image_id":
        val.images = [image_record(number, file_name="x.png")]
    if name == "category_id":
        val.categories = train.categories = [{"id": number, "name": "cat"}, *train.categories]
    data = make_data(train, val, audit_images=1)
    data.setup("fit")
    (sample,) = data.audit_samples()
    assert number in (sample.image_id, *sample.annotation_ids, data.category_ids[int(sample.labels[0])])
    assert data.audit_set_sha256()


@pytest.mark.parametrize(("n_crowd", "warned"), [(0, False), (2, False), (3, True)])
def test_crowd_regions_are_counted_and_warned_of_when_they_are_many(files, n_crowd, warned, caplog):
    files.annotations = [annotation_record(i, 1) for i in range(20)]
    files.annotations[:n_crowd] = [annotation_record(i, 1, **CROWD) for i in range(n_crowd)]
    with caplog.at_level(logging.WARNING):
        coco = read(files)
    assert [line.split(",")[0] for line in coco.mended] == [f"{n_crowd} crowd regions"] * (n_crowd > 0)
    assert ("3 of the 20 objects" in caplog.text) == warned
