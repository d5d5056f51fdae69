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
    "below": (annotation_record(11, 1, bbox=[1, 30, 10, 2]), "inside the image of height 30 and width 40"),
    "next to": (annotation_record(11, 1, bbox=[40, 2, 0.5, 4]), "inside the image of height 30 and width 40"),
    "crowd": (annotation_record(11, 1, iscrowd=2), "expected iscrowd to be 0 or 1, but got 2"),
    "half crowd": (annotation_record(11, 1, iscrowd=0.5), "expected iscrowd to be 0 or 1, but got 0.5"),
    "relative": (annotation_record(11, 1, bbox=[0.1, 0.2, 0.5, 0.5]), r"in pixels, but got .* relative \(0 to 1\)"),
    "large id": (annotation_record(2**53 + 1, 1), r"expected id to be within 2\*\*53, .* but got 9007199254740993"),
    "large image id": (annotation_record(11, -(2**63)), r"expected image_id to be within 2\*\*53"),
    "infinite id": (annotation_record(math.inf, 1), "expected id to be an integer, but got inf"),
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
    files.annotations = [annotation_record(11, 1), annotation_record(11, 1), annotation_record(12, 2)]

    with pytest.raises(BrokenInputError, match=r"annotation id 11 \(image id 1.*annotation ids to be unique"):
        read(files)
    assert [len(image.annotations) for image in read(files, bad_records="skip").images] == [1, 1]


@pytest.mark.parametrize("bad_records", ["error", "skip"])
def test_ids_that_begin_again_in_every_image_are_refused_with_a_cure(files, bad_records):
    files.annotations = [annotation_record(i, image) for image in (1, 2) for i in (1, 2, 3)]

    with pytest.raises(BrokenInputError, match=r"image id 1 has id 1, too\. Where they begin again .*: for i, a in"):
        read(files, bad_records=bad_records)


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
def test_an_image_that_is_a_git_lfs_pointer_is_an_error_at_once(files, bad_records):
    files.write()
    (files.images_dir / "1.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12345\n")
    with pytest.raises(BrokenInputError, match=r"1 images that are Git LFS pointers: .*1\.png, .*git lfs pull"):
        read_coco(files.json, files.images_dir, bad_records=bad_records)


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


def test_each_kind_of_problem_is_one_line_with_a_count_and_three_examples(files):
    files.annotations = [annotation_record(i, 1, category_id=5) for i in range(1, 14)]
    files.annotations.append(annotation_record(14, 1, bbox=[1, 1, 0, 5], segmentation=None))

    with pytest.raises(BrokenInputError, match="14 problems") as caught:
        read(files)
    cure, first, second = str(caught.value).splitlines()
    assert 'leave these records out: bad_records="skip" (on the command line --bad-records skip' in cure
    assert first.startswith("  - 13 annotations of an unknown category: annotation id 1 (image id 1, ")
    assert first.count("annotation id") == 3
    assert first.endswith("; ...")
    assert second.startswith("  - 1 boxes without a size: annotation id 14 ")


def test_a_warning_of_skipped_objects_says_what_becomes_of_average_precision(files, caplog):
    files.annotations.append(annotation_record(13, 1, bbox=[1, 1, 0, 5], segmentation=None))
    read(files, bad_records="skip")
    assert "Average precision is computed without the objects left out." in caplog.text


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
        ("<annotation>\n<folder>x</folder>", "it is a Pascal VOC XML file. Make COCO JSON of such files: odsg convert"),
        ('\ufeff<?xml version="1.0"?>\n<annotation verified="yes">', "it is a Pascal VOC XML file"),
        ("<annotations><version>1.1</version>", "it is an XML or HTML file"),
        ("0 0.5 0.5 0.25 1\n2 0.1 0.1 1e-2 0.1\n", "it is a YOLO label file. .*odsg convert"),
        ("0 0.5 0.5 0.25 1 0.25 0.5", "it is a YOLO label file"),
        ("# mine\ntrain: ../train/images\nnames: [a]\n", "it is the YAML file of a YOLO data set.*odsg convert"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 1\n", "pointer, .*git lfs pull"),
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
        read_coco(files.images_dir, files.images_dir)
    (files.images_dir / "1.xml").touch()
    with pytest.raises(BrokenInputError, match=r"it is a folder of \.xml files\. .*odsg convert"):
        read_coco(files.images_dir, files.images_dir)
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
