import json
import logging
import math
import re

import numpy as np
import pytest
from helpers.coco_files import CocoFiles, annotation_record, image_record, rectangle

from odsg_lightning.data.coco import check_images, read_coco
from odsg_lightning.data.coco_masks import segmentation_mask
from odsg_lightning.errors import BrokenInputError, MissingFileError


@pytest.fixture
def files(tmp_path):
    return CocoFiles(tmp_path)


def read(files, **options):
    files.write()
    return read_coco(files.json, files.images_dir, **options)


def test_reads_in_order_of_ids_with_contiguous_labels(files):
    files.images = [image_record(2), image_record(1)]
    files.annotations = [annotation_record(12, 1, category_id=7), annotation_record(11, 1, bbox=[1, 2, 3, 4])]

    coco = read(files)

    assert (coco.category_ids, coco.category_names) == ((3, 7), ("cat", "dog"))
    assert [image.id for image in coco.images] == [1, 2]
    first, second = coco.images[0].annotations
    assert (first.id, first.label, first.box) == (11, 0, (1.0, 2.0, 4.0, 6.0))
    assert (second.id, second.label, second.category_id) == (12, 1, 7)
    assert first.segmentation == rectangle(1, 2, 3, 4)
    assert coco.images[1].annotations == ()


def test_iscrowd_may_be_absent(files):
    del files.annotations[0]["iscrowd"]

    assert read(files).images[0].annotations[0].iscrowd is False


@pytest.mark.parametrize(
    ("bbox", "box"),
    [([-0.8, -1, 10, 8], (0.0, 0.0, 9.2, 7.0)), ([30, 20, 10.5, 11], (30.0, 20.0, 40.0, 30.0))],
)
def test_boxes_up_to_one_pixel_outside_are_clipped(files, bbox, box):
    files.annotations = [annotation_record(11, 1, bbox=bbox)]

    assert read(files).images[0].annotations[0].box == pytest.approx(box)


RLE = {"size": [30, 40], "counts": [100, 5, 1095]}
BAD_ANNOTATIONS = {
    "no object": ("x", r"annotations\[0\]: expected an object, but got 'x'"),
    "no id": ({"image_id": 1}, "expected a field 'id'"),
    "text id": (annotation_record("11", 1), "expected id to be an integer, but got '11'"),
    "bool id": (annotation_record(True, 1), "expected id to be an integer, but got True"),
    "unknown image": (annotation_record(11, 99), r"annotation id 11 \(image id 99\): .* but got 99"),
    "unknown category": (
        annotation_record(11, 1, category_id=4),
        r"annotation id 11 \(image id 1, file_name '1\.png'\): expected category_id to be one of \[3, 7\], but got 4",
    ),
    "no bbox": ({"id": 11, "image_id": 1, "category_id": 3}, "expected a field 'bbox', but it has only"),
    "short bbox": (annotation_record(11, 1, bbox=[1, 2, 3]), "expected bbox to be 4 finite numbers"),
    "NaN bbox": (annotation_record(11, 1, bbox=[1, math.nan, 3, 4]), "expected bbox to be 4 finite numbers"),
    "infinite bbox": (annotation_record(11, 1, bbox=[1, 2, math.inf, 4]), "expected bbox to be 4 finite numbers"),
    "huge bbox": (annotation_record(11, 1, bbox=[1, 2, 10**400, 4]), "expected bbox to be 4 finite numbers"),
    "text bbox": (annotation_record(11, 1, bbox=["1", 2, 3, 4], segmentation=None), "4 finite numbers"),
    "zero width": (annotation_record(11, 1, bbox=[1, 2, 0, 4]), "positive width and height, but got"),
    "negative height": (annotation_record(11, 1, bbox=[1, 2, 3, -4]), "positive width and height, but got"),
    "right": (annotation_record(11, 1, bbox=[31, 2, 10.1, 4]), "inside the image of height 30 and width 40"),
    "left": (annotation_record(11, 1, bbox=[-1.1, 2, 10, 4]), "inside the image of height 30 and width 40"),
    "below": (annotation_record(11, 1, bbox=[1, 29, 10, 2.1]), "inside the image of height 30 and width 40"),
    "above": (annotation_record(11, 1, bbox=[1, -1.1, 10, 4]), "inside the image of height 30 and width 40"),
    "next to": (annotation_record(11, 1, bbox=[40, 2, 0.5, 4]), "inside the image of height 30 and width 40"),
    "crowd": (annotation_record(11, 1, iscrowd=2), "expected iscrowd to be 0 or 1, but got 2"),
    "float crowd": (annotation_record(11, 1, iscrowd=1.0), "expected iscrowd to be 0 or 1, but got 1.0"),
    "no polygon": (annotation_record(11, 1, segmentation=[]), "at least one polygon, but it is empty"),
    "flat polygon": (annotation_record(11, 1, segmentation=[1, 2, 3, 4, 5, 6]), "each polygon to be a list of finite"),
    "two points": (annotation_record(11, 1, segmentation=[[1, 2, 3, 4]]), "at least 3 points .* but got 4 numbers"),
    "odd polygon": (annotation_record(11, 1, segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "3 points .* but got 7 numbers"),
    "far polygon": (annotation_record(11, 1, segmentation=[[1, 2, 1e9, 4, 5, 6]]), "one lies far outside"),
    "text": (annotation_record(11, 1, segmentation="abc"), "to be polygons or RLE, but got 'abc'"),
    "RLE size": (annotation_record(11, 1, segmentation={**RLE, "size": [40, 30]}), r"RLE to be \[30, 40\], but got"),
    "RLE empty": (annotation_record(11, 1, segmentation={**RLE, "counts": [1200]}), "its area is zero"),
    "RLE sum": (annotation_record(11, 1, segmentation={**RLE, "counts": [1, 2]}), "add up to 1200 pixels, but got 3"),
    "RLE negative": (annotation_record(11, 1, segmentation={**RLE, "counts": [1201, -1]}), "of at least 0"),
    "RLE counts": (annotation_record(11, 1, segmentation={"size": [30, 40]}), "to be a list or a string, but got None"),
    "RLE garbage": (annotation_record(11, 1, segmentation={**RLE, "counts": "é"}), "but: invalid compressed RLE"),
    "RLE cut": (annotation_record(11, 1, segmentation={**RLE, "counts": "oo"}), "but: truncated compressed RLE"),
}


@pytest.mark.parametrize("name", BAD_ANNOTATIONS)
def test_bad_annotation_is_named_or_skipped(files, name, caplog):
    record, message = BAD_ANNOTATIONS[name]
    files.annotations = [record, annotation_record(12, 2)]

    with pytest.raises(
        BrokenInputError, match=f"(?s)Expected all records of .*instances.json.*1 problem\\..*{message}"
    ):
        read(files)

    with caplog.at_level(logging.WARNING):
        coco = read(files, bad_records="skip")
    assert [a.id for image in coco.images for a in image.annotations] == [12]
    assert len(coco.skipped) == 1
    assert len(caplog.records) == 1
    assert re.search("(?s)Skipped 1 unusable records of .*instances.json.*" + message, caplog.text)


def test_repeated_annotation_id(files):
    files.annotations = [annotation_record(11, 1), annotation_record(11, 2)]

    with pytest.raises(BrokenInputError, match=r"annotation id 11 \(image id 2.*annotation ids to be unique"):
        read(files)
    assert [len(image.annotations) for image in read(files, bad_records="skip").images] == [1, 0]


BAD_IMAGES = {
    "no object": (17, r"images\[0\]: expected an object, but got 17"),
    "no id": ({"file_name": "1.png"}, r"images\[0\]: expected a field 'id'"),
    "no height": ({"id": 1, "file_name": "/", "width": 4}, "file_name to stay inside"),
    "zero width": ({"id": 1, "file_name": "x/a.png", "height": 1, "width": 0}, "width to be an integer of at least 1"),
    "float height": (
        {"id": 1, "file_name": "x/a.png", "height": 1.5, "width": 2},
        r"image id 1 \(file_name 'x/a\.png'\): expected height to be an integer of at least 1, but got 1\.5",
    ),
    "no name": ({"id": 1, "height": 1, "width": 1}, "expected a field 'file_name'"),
    "empty name": ({"id": 1, "file_name": "", "height": 1, "width": 1}, "file_name to be a name, but got ''"),
    "number as name": ({"id": 1, "file_name": 5, "height": 1, "width": 1}, "file_name to be a name, but got 5"),
}
for bad_name in ("../a.png", "a/../../b.png", "/etc/a.png", "..\\a.png", "C:\\a.png", "\\a.png", "C:a.png"):
    record = {"id": 1, "file_name": bad_name, "height": 1, "width": 1}
    BAD_IMAGES[bad_name] = (record, r"file_name to stay inside the image folder, but got .*without '\.\.'")


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_image_is_named_or_skipped_with_its_annotations(files, name):
    record, message = BAD_IMAGES[name]
    files.images = [image_record(2)]
    files.annotations = [annotation_record(12, 2), annotation_record(13, 2)]
    if isinstance(record, dict) and "id" in record:
        files.annotations.append(annotation_record(11, 1))  # reported once, by its image
    files.write()
    content = json.loads(files.json.read_text())
    content["images"].insert(0, record)
    files.json.write_text(json.dumps(content))

    with pytest.raises(BrokenInputError, match=rf"(?s)1 problem\..*{message}"):
        read_coco(files.json, files.images_dir)
    coco = read_coco(files.json, files.images_dir, bad_records="skip")
    assert [(image.id, len(image.annotations)) for image in coco.images] == [(2, 2)]


def test_missing_image_files(files):
    files.write()
    (files.images_dir / "1.png").unlink()

    with pytest.raises(MissingFileError, match=r"image id 1 \(file_name '1\.png'\): expected a file .*1\.png, but"):
        read_coco(files.json, files.images_dir)
    assert [i.id for i in read_coco(files.json, files.images_dir, bad_records="skip").images] == [2]

    (files.images_dir / "2.png").unlink()
    with pytest.raises(BrokenInputError, match=r"(?s)at least one usable image, but all were skipped\..*image id 1 "):
        read_coco(files.json, files.images_dir, bad_records="skip")


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b"])
def test_file_names_that_no_file_system_takes_are_missing(files, name):
    files.write()
    content = json.loads(files.json.read_text())
    content["images"][0]["file_name"] = name
    files.json.write_text(json.dumps(content))

    with pytest.raises(MissingFileError, match=r"expected a file .* but there is none"):
        read_coco(files.json, files.images_dir)


@pytest.mark.parametrize("bad_records", ["error", "skip"])
@pytest.mark.parametrize(
    ("part", "records", "message"),
    [
        ("images", [image_record(1), image_record(1)], "image id 1 .*image ids to be unique"),
        ("images", [], "at least one record in 'images'"),
        ("categories", [], "at least one record in 'categories'"),
        ("categories", [{"id": 3, "name": "a"}] * 2, r"categories\[1\]: .*id 3 came before"),
        ("categories", [{"id": 3}], r"categories\[0\]: expected a field 'name'"),
        ("categories", [{"id": 3, "name": 5}], r"categories\[0\]: expected name to be a text, but got 5"),
        ("categories", [[]], r"categories\[0\]: expected an object"),
    ],
)
def test_what_no_skipping_cures(files, bad_records, part, records, message):
    setattr(files, part, records)

    with pytest.raises(BrokenInputError, match=message) as caught:
        read(files, bad_records=bad_records)
    assert 'bad_records="skip"' not in str(caught.value)


def test_ten_problems_are_shown_and_the_rest_counted(files):
    files.annotations = [annotation_record(i, 1, category_id=5) for i in range(1, 14)]

    with pytest.raises(BrokenInputError, match="13 problems") as caught:
        read(files)
    assert str(caught.value).count("annotation id") == 10
    assert str(caught.value).endswith("... and 3 more")
    assert 'leave these records out: bad_records="skip"' in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "but it is empty"),
        ("  \n", "but it is empty"),
        ('{"images": [,]}', "Expecting value at line 1, column 13"),
        ('{"images": [{"id": 1},\n{"id', r"at line 2, column 2\. Is it truncated\?"),
        ("[]", r"top level of .* but got a list.*detection results"),
        ("3", "but got a int"),
        ('{"images": []}', r"a list named 'annotations', but it has only \['images'\]"),
        ('{"images": {}, "annotations": [], "categories": []}', "a list named 'images', but got a dict"),
        ("[" * 100_000, "Expected a COCO JSON file at .*, but"),
        ('{"images": ' + "1" * 5000 + "}", "Expected a COCO JSON file at .*, but"),
    ],
)
def test_broken_json(files, text, message):
    files.write().json.write_text(text)

    with pytest.raises(BrokenInputError, match=f"(?s){message}"):
        read_coco(files.json, files.images_dir)


def test_json_that_is_not_text(files):
    files.write().json.write_bytes(b"\xff\xfe\x00\xd8{")

    with pytest.raises(BrokenInputError, match=r"Expected a COCO JSON file at .*instances\.json, but"):
        read_coco(files.json, files.images_dir)


def test_what_strict_readers_refuse_is_accepted_where_nothing_is_read_of_it(files):
    files.write()
    text = files.json.read_text().replace('"id": 1,', '"id": 1, "score": NaN, "note": 1, "note": 2,', 1)
    files.json.write_text(text)

    assert "NaN" in text
    assert len(read_coco(files.json, files.images_dir).images) == 2


def test_byte_order_mark_is_accepted(files):
    files.write().json.write_bytes(b"\xef\xbb\xbf" + files.json.read_bytes())

    assert len(read_coco(files.json, files.images_dir).images) == 2


def test_missing_json_folder_instead_of_json_and_missing_folder(files):
    files.write()

    with pytest.raises(MissingFileError, match=r"Expected a COCO JSON file at .*none\.json, but No such file"):
        read_coco(files.folder / "none.json", files.images_dir)
    with pytest.raises(BrokenInputError, match="but it is a folder"):
        read_coco(files.folder, files.images_dir)
    with pytest.raises(MissingFileError, match=r"in a folder .*nowhere, but there is none"):
        read_coco(files.json, files.folder / "nowhere")


@pytest.mark.parametrize("segmentation", [[], None])
def test_file_of_boxes_only_has_no_segmentations(files, segmentation):
    files.annotations = [annotation_record(i, 1, segmentation=segmentation) for i in (11, 12)]

    assert [a.segmentation for a in read(files).images[0].annotations] == [None, None]


def test_segmentations_are_neither_checked_nor_kept_where_not_asked_for(files):
    files.annotations = [annotation_record(11, 1, segmentation=[[1]])]

    assert read(files, segmentations=False).images[0].annotations[0].segmentation is None


def test_check_images_names_all_broken_ones(files):
    files.images = [image_record(i, width=64, height=48) for i in (1, 2, 3, 4)]
    coco = read(files)
    check_images(coco)

    path = files.images_dir / "2.png"
    path.write_bytes(path.read_bytes()[:100])
    (files.images_dir / "4.png").write_bytes((files.images_dir / "1.png").read_bytes()[:1] + b"no image")
    with pytest.raises(BrokenInputError, match=r"(?s)all 4 images of .* but 2 are not:.*image id 2: .*image id 4: "):
        check_images(coco)


def test_check_images_finds_a_wrong_size(files):
    files.write()
    content = json.loads(files.json.read_text())
    content["images"][0]["height"] = 31
    files.json.write_text(json.dumps(content))

    with pytest.raises(BrokenInputError, match=r"image id 1: .*to have height 31 and width 40.*but got height 30"):
        check_images(read_coco(files.json, files.images_dir))


def test_a_whole_data_set_is_read_as_pycocotools_reads_it(whole):
    from pycocotools.coco import COCO

    coco, reference = read_coco(whole.val_annotations, whole.val_images), COCO(str(whole.val_annotations))

    assert list(coco.category_ids) == sorted(reference.getCatIds())
    assert [image.id for image in coco.images] == sorted(reference.getImgIds())
    count = 0
    for image in coco.images:
        for annotation in image.annotations:
            raw = reference.anns[annotation.id]
            x, y, w, h = raw["bbox"]
            assert annotation.box == pytest.approx((x, y, x + w, y + h))
            assert coco.category_ids[annotation.label] == raw["category_id"]
            mask = segmentation_mask(annotation.segmentation, image.height, image.width)
            assert np.array_equal(mask, reference.annToMask(raw))
            count += 1
    assert count == len(reference.anns)
    check_images(coco)
