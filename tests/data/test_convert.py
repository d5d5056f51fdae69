"""Pascal VOC and YOLO data sets as they are exported, made COCO and read as training reads them."""

import json
import shutil

import pytest
from helpers.coco_files import gradient_image
from PIL import Image

from odsg_lightning.data.coco import read_coco
from odsg_lightning.data.convert import voc_to_coco, yolo_to_coco
from odsg_lightning.errors import BrokenInputError, MissingFileError

pytest.importorskip("globox", reason="globox is not among the lowest versions")

# As labelImg wrote it of BCCD (github.com/Shenggan/BCCD_Dataset, MIT), with fewer objects.
VOC = """<annotation verified="yes">
\t<folder>JPEGImages</folder>
\t<filename>BloodImage_00007.jpg</filename>
\t<path>/home/pi/detection_dataset/JPEGImages/BloodImage_00007.jpg</path>
\t<source><database>Unknown</database></source>
\t<size><width>640</width><height>480</height><depth>3</depth></size>
\t<segmented>0</segmented>
\t<object>
\t\t<name>WBC</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>
\t\t<bndbox><xmin>193</xmin><ymin>92</ymin><xmax>387</xmax><ymax>285</ymax></bndbox>
\t</object>
\t<object>
\t\t<name>RBC</name><pose>Unspecified</pose><truncated>1</truncated><difficult>1</difficult>
\t\t<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>640</xmax><ymax>480</ymax></bndbox>
\t</object>
\t<object>
\t\t<name>RBC</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>
\t\t<bndbox><xmin>504</xmin><ymin>337</ymin><xmax>504</xmax><ymax>337</ymax></bndbox>
\t</object>
</annotation>
"""
# As Roboflow exports "YOLOv8"; Ultralytics' own begin with a path and number the names.
ROBOFLOW = """train: ../train/images
val: ../valid/images
test: ../test/images

nc: 3
names: ['Platelets', 'RBC', 'WBC']

roboflow:
  workspace: joseph-nelson
  project: bccd
  version: 4
  license: Public Domain
  url: https://universe.roboflow.com/joseph-nelson/bccd/dataset/4
"""
ULTRALYTICS = """path: ../datasets/bccd # dataset root dir
train: images/train # train images (relative to 'path')
val: images/val
test: # optional

names:
  0: Platelets
  1: RBC
  2: WBC
"""
LABELS = "2 0.4640625 0.40104166666666669 0.3125 0.375\n1 0.5 0.5 1 1\n0 0.25 0.25 0.5 0.25 0.5 0.75\n"


def boxes(converted):
    return [annotation["bbox"] for annotation in converted.content["annotations"]]


def as_training_reads(converted, tmp_path):
    (tmp_path / "coco.json").write_text(json.dumps(converted.content))
    return read_coco(tmp_path / "coco.json", converted.images_dir)


# Pascal VOC ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def voc(tmp_path):
    """Annotations/, JPEGImages/ and ImageSets/Main/, as in VOC2012."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    add(tmp_path, "BloodImage_00007", VOC)
    add(tmp_path, "BloodImage_00001", VOC.replace("00007", "00001").replace("WBC", "Platelets"))
    return tmp_path


def add(folder, stem, text):
    (folder / f"Annotations/{stem}.xml").write_text(text, encoding="utf-8")
    gradient_image(640, 480).save(folder / f"JPEGImages/{stem}.jpg")


def of_voc(folder, **options):
    return voc_to_coco(folder / "Annotations", folder / "JPEGImages", **options)


def test_voc_counts_pixels_from_1_and_the_last_belongs_to_the_box(voc, tmp_path):
    converted = of_voc(voc)
    assert boxes(converted)[:3] == [[192, 91, 195, 194], [0, 0, 640, 480], [503, 336, 1, 1]]
    assert converted.n_difficult == 2
    coco = as_training_reads(converted, tmp_path)
    assert coco.category_names == ("Platelets", "RBC", "WBC")
    assert [image.file_name for image in coco.images] == ["BloodImage_00001.jpg", "BloodImage_00007.jpg"]
    assert [a.label for a in coco.images[1].annotations] == [2, 1, 1]
    assert coco.images[1].annotations[1].box == (0, 0, 640, 480)
    assert coco.mended == ()


def test_voc_coordinates_from_0_are_asked_for_by_name(voc):
    add(voc, "cvat", VOC.replace("00007", "cvat").replace("<xmin>1<", "<xmin>0.25<").replace("BloodImage_", ""))
    with pytest.raises(BrokenInputError, match=r"from 1 on, .*cvat\.xml has a box \[0\.25, 1\.0, .* add --zero-based"):
        of_voc(voc)
    assert boxes(of_voc(voc, zero_based=True))[-2] == [0.25, 1, 639.75, 479]


def test_image_sets_of_one_folder_agree_on_the_categories(voc):
    image_set = voc / "ImageSets/Main/train.txt"
    image_set.write_text("BloodImage_00007  1\n")
    converted = of_voc(voc, image_set=image_set)
    assert [image["file_name"] for image in converted.content["images"]] == ["BloodImage_00007.jpg"]
    assert converted.content["categories"] == of_voc(voc).content["categories"]
    image_set.write_text("BloodImage_00008\n")
    with pytest.raises(MissingFileError, match=r"train\.txt, but \['BloodImage_00008'\] have none"):
        of_voc(voc, image_set=image_set)


def test_the_image_may_be_called_like_the_xml_file_only(voc):
    add(voc, "Käfer", VOC.replace("BloodImage_00007.jpg", "frame").replace("<width>640<", "<width>0<"))
    (image,) = (i for i in of_voc(voc).content["images"] if "fer" in i["file_name"])
    assert (image["file_name"], image["height"], image["width"]) == ("Käfer.jpg", 480, 640)
    (voc / "JPEGImages/Käfer.jpg").unlink()
    with pytest.raises(MissingFileError, match=r"an image for .*fer\.xml, but: expected a file .*frame, but there is"):
        of_voc(voc)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (VOC[:500], r"b\.xml, but (no element found|unclosed token)"),
        ("", r"b\.xml, but no element found"),
        (VOC.replace("<name>WBC</name>", ""), r"b\.xml to have a name in each object"),
        (VOC.replace("<xmin>193</xmin>", ""), r"a box in .*b\.xml"),
        (VOC.replace(">193<", ">x<"), r"a box in .*b\.xml"),
        (VOC.replace(">193<", ">nan<"), r"a box.* in .*b\.xml"),
        (VOC.replace(">193<", ">400<"), r"a box in .*b\.xml"),
        ('<?xml version="1.0" encoding="nonsense"?>' + VOC, r"b\.xml, but"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 1\n", "git lfs pull"),
    ],
)
def test_broken_voc_is_named(voc, text, message):
    add(voc, "b", text)
    with pytest.raises(BrokenInputError, match=message):
        of_voc(voc)


def test_no_voc_at_all(tmp_path):
    with pytest.raises(MissingFileError, match="Expected a folder of Pascal VOC XML files at"):
        voc_to_coco(tmp_path, tmp_path)


@pytest.mark.coco
def test_all_of_bccd_is_converted_without_loss(coco_tiny, tmp_path):
    bccd = coco_tiny.parent / "bccd"
    if not bccd.is_dir():
        pytest.skip(f"BCCD is not at {bccd}")
    converted = voc_to_coco(bccd / "voc", bccd / "images")
    names = {i["id"]: i["file_name"] for i in converted.content["images"]}
    ours = sorted((names[a["image_id"]], *a["bbox"]) for a in converted.content["annotations"])
    expected = []  # the same files, converted by their publisher, who took the numbers as coordinates
    for split in ("train", "val", "test"):
        content = json.loads((bccd / f"annotations/{split}.json").read_text())
        names = {i["id"]: i["file_name"] for i in content["images"]}
        for annotation in content["annotations"]:
            x, y, w, h = annotation["bbox"]
            expected.append((names[annotation["image_id"]], x - 1, y - 1, w + 1, h + 1))
    assert len(ours) == 4888
    assert ours == sorted(expected)
    coco = as_training_reads(converted, tmp_path)
    assert (len(coco.images), coco.skipped, coco.mended) == (364, (), ())


# YOLO ---------------------------------------------------------------------------------------------------------------


def write_split(images, labels, *, text=LABELS):
    for folder in (images, labels):
        folder.mkdir(parents=True)
    gradient_image(640, 480).save(images / "b.v1.jpg")
    gradient_image(320, 240).save(images / "a.png")
    (labels / "b.v1.txt").write_text(text)


@pytest.fixture(params=["Roboflow", "Ultralytics", "list"])
def yolo(request, tmp_path):
    """A data.yaml whose training split has b.v1.jpg with LABELS, and a.png without objects."""
    data = tmp_path / "export/data.yaml"
    data.parent.mkdir()
    if request.param == "Roboflow":
        data.write_text(ROBOFLOW)
        write_split(data.parent / "train/images", data.parent / "train/labels")
        return data
    root = tmp_path / "datasets/bccd"
    write_split(root / "images/train", root / "labels/train")
    data.write_text(ULTRALYTICS)
    if request.param == "list":
        data.write_text(ULTRALYTICS.replace("images/train", "train.txt"))
        (root / "train.txt").write_text("./images/train/b.v1.jpg\nimages/train/a.png\n")
    return data


def test_yolo_boxes_and_polygons_are_pixels_of_the_image(yolo, tmp_path):
    converted = yolo_to_coco(yolo, "train")
    assert boxes(converted)[0] == pytest.approx([197, 102.5, 200, 180], abs=1e-9)
    assert boxes(converted)[1:] == [[0, 0, 640, 480], [160, 120, 160, 240]]
    coco = as_training_reads(converted, tmp_path)
    assert coco.category_names == ("Platelets", "RBC", "WBC")
    assert [(i.file_name, i.height, len(i.annotations)) for i in coco.images] == [
        ("a.png", 240, 0),
        ("b.v1.jpg", 480, 3),
    ]
    assert [a.label for a in coco.images[1].annotations] == [2, 1, 0]
    assert coco.images[1].annotations[2].segmentation == [[160, 120, 320, 120, 320, 360]]


def test_yolo_that_was_written_of_coco_comes_back(yolo, tmp_path):
    """Written in full precision by globox, read by ours."""
    import globox

    before = [[12.25, 100.5, 33.125, 7.75], [0, 0, 640, 480], [639.5, 1 / 3, 0.5, 12]]
    made = [globox.BoundingBox.create(label="1", coords=b, box_format=globox.BoxFormat.LTWH) for b in before]
    lines = [box.to_txt(box_format=globox.BoxFormat.XYWH, relative=True, image_size=(640, 480)) for box in made]
    (label,) = tmp_path.rglob("b.v1.txt")
    label.write_text("\r\n".join(["", *lines, ""]))
    for ours, theirs in zip(boxes(yolo_to_coco(yolo, "train")), before, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-10)


def test_yolo_boxes_refer_to_the_upright_picture(yolo, tmp_path):
    (path,) = tmp_path.rglob("b.v1.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    gradient_image(640, 480).save(path, exif=exif)
    converted = yolo_to_coco(yolo, "train")
    assert [(i["height"], i["width"]) for i in converted.content["images"]] == [(240, 320), (640, 480)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3 0.5 0.5 0.1 0.1", "a class from 0 to 2 .*line 1, but got '3 0.5"),
        ("1 0.5 0.5 0.1", "the 4 numbers of a box"),
        ("1 0.5 0.5 0.1 0.1 0.93", "the 4 numbers of a box"),
        ("1 0.5 0.5 0.1 0.1\n1 0.5 x 0.1 0.1", "line 2, but got '1 0.5 x"),
        ("1 0.5 nan 0.1 0.1", "line 1"),
        ("RBC 0.5 0.5 0.1 0.1", "line 1"),
        ("1 320 240 64 48", r"relative coordinates \(0 to 1\) in .*line 1"),
        ("1 0.5 0.5 -0.1 0.1", "a box in .*line 1"),
        ("<annotation/>", "line 1"),
    ],
)
def test_broken_labels_are_named_by_file_and_line(yolo, tmp_path, text, message):
    (label,) = tmp_path.rglob("b.v1.txt")
    label.write_text(text)
    with pytest.raises(BrokenInputError, match=rf"(?s)b\.v1\.txt.*{message}|{message}") as error:
        yolo_to_coco(yolo, "train")
    assert "b.v1.txt, line" in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("names", "nomes"), "to list the classes under names"),
        (("train:", "training:"), r"to name images under 'train', but it has only"),
        (("names", "kpt_shape: [17, 3]\nnames"), "describes keypoints"),
    ],
)
def test_broken_data_yaml_is_named(yolo, change, message):
    yolo.write_text(yolo.read_text().replace(*change))
    with pytest.raises(BrokenInputError, match=message):
        yolo_to_coco(yolo, "train")


def test_missing_folders_and_labels_are_named(yolo, tmp_path):
    with pytest.raises(BrokenInputError, match=r"val.*|images"):
        yolo_to_coco(yolo, "val")
    shutil.rmtree(next(tmp_path.rglob("b.v1.txt")).parent)
    with pytest.raises(MissingFileError, match=r"a label file .*labels.*a\.txt beside .*a\.png"):
        yolo_to_coco(yolo, "train")
