import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from odsg_lightning.errors import BrokenInputError, UserInputError
from odsg_lightning.records.audit_set import AuditImage, AuditSet, read_audit_set, samples_sha256, write_audit_set
from odsg_lightning.types import AuditSample

IMAGES = (
    AuditImage(3, "a.png", "1" * 64, "2" * 64, (30, 31)),
    AuditImage(9, "b/c.png", "3" * 64, "4" * 64, (90,)),
)


def a_set(folder: Path, **changes):
    values = {
        "annotations": folder / "data" / "val.json",
        "images_dir": folder / "data" / "images",
        "masks": "segmentation",
        "min_size": 800,
        "max_size": 1333,
        "seed": 0,
        "bad_records": "error",
        "categories": ((3, "cat"), (7, "dog")),
        "images": IMAGES,
    }
    return AuditSet(**(values | changes))


def test_what_is_written_is_read(tmp_path):
    write_audit_set(a_set(tmp_path), tmp_path / "set.json")
    first = (tmp_path / "set.json").read_bytes()
    assert read_audit_set(tmp_path / "set.json") == a_set(tmp_path)
    write_audit_set(read_audit_set(tmp_path / "set.json"), tmp_path / "set.json")
    assert (tmp_path / "set.json").read_bytes() == first
    assert len([line for line in first.decode().splitlines() if '"file_name"' in line]) == 2  # a line for each


def test_it_moves_with_its_files(tmp_path):
    (tmp_path / "here").mkdir()
    write_audit_set(a_set(tmp_path / "here"), tmp_path / "here" / "set.json")
    content = json.loads((tmp_path / "here" / "set.json").read_text())
    assert (content["annotations"], content["images_dir"]) == ("data/val.json", "data/images")
    (tmp_path / "here").rename(tmp_path / "there")
    moved = read_audit_set(tmp_path / "there" / "set.json")
    assert moved.annotations == tmp_path / "there" / "data" / "val.json"
    assert moved.sha256 == a_set(tmp_path).sha256


def test_above_its_own_folder_and_through_a_link(tmp_path):
    (tmp_path / "deep" / "sets").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "sets")
    write_audit_set(a_set(tmp_path), tmp_path / "link" / "set.json")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "val.json").write_text("{}")
    assert read_audit_set(tmp_path / "link" / "set.json").annotations.read_text() == "{}"


@pytest.mark.parametrize(
    "changes",
    [
        {"masks": "box"},
        {"min_size": 801},
        {"max_size": 1334},
        {"categories": ((3, "cat"), (7, "fox"))},
        {"images": IMAGES[:1]},
        {"images": (IMAGES[0], replace(IMAGES[1], sha256="5" * 64))},
        {"images": (IMAGES[0], replace(IMAGES[1], annotations_sha256="5" * 64))},
        {"images": (IMAGES[0], replace(IMAGES[1], annotation_ids=(91,)))},
        {"images": (IMAGES[0], replace(IMAGES[1], id=10))},
    ],
)
def test_the_hash_changes_with_content_and_settings(tmp_path, changes):
    assert a_set(tmp_path, **changes).sha256 != a_set(tmp_path).sha256


def test_the_hash_does_not_change_with_paths_and_the_way_of_choosing(tmp_path):
    other = a_set(tmp_path / "x", seed=None, images=(IMAGES[0], replace(IMAGES[1], file_name="other.png")))
    assert other.sha256 == a_set(tmp_path).sha256


def change(content, **values):
    return content | values


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: json.dumps(c)[:-9], "Is it truncated"),
        (lambda c: change(c, schema="odsg-audit-record/1"), "its schema is 'odsg-audit-record/1'"),
        (lambda c: change(c, surprise=1), "surprise"),
        (lambda c: change(c, min_size=10**6), "min_size"),
        (lambda c: change(c, images=[]), "images"),
        (lambda c: change(c, images=[c["images"][0]] * 2), "image id 3 comes twice"),
        (lambda c: change(c, categories=[c["categories"][0]] * 2), "category id 3 comes twice"),
        (lambda c: change(c, images=[c["images"][0] | {"annotation_ids": [1, 1]}]), "annotation id 1 comes twice"),
        (lambda c: change(c, images=[c["images"][0] | {"sha256": "no"}]), "sha256"),
        (lambda c: '{"schema": NaN}', "NaN"),
        (lambda c: [c], "its schema is|must be object"),
    ],
)
def test_a_broken_set_is_refused(tmp_path, damage, message):
    path = tmp_path / "set.json"
    write_audit_set(a_set(tmp_path), path)
    damaged = damage(json.loads(path.read_text()))
    path.write_text(damaged if isinstance(damaged, str) else json.dumps(damaged))
    with pytest.raises(BrokenInputError, match=message):
        read_audit_set(path)


def test_a_set_that_could_not_be_read_is_not_written(tmp_path):
    with pytest.raises(UserInputError, match="min_size"):
        write_audit_set(a_set(tmp_path, min_size=0), tmp_path / "set.json")
    assert list(tmp_path.iterdir()) == []


def sample(**changes):
    values = {
        "image": torch.full((3, 10, 12), 7.0),
        "boxes": torch.tensor([[1.0, 2, 5, 6]]),
        "labels": torch.tensor([1]),
        "masks": torch.ones(1, 10, 12, dtype=torch.bool),
        "image_id": 4,
        "annotation_ids": (40,),
        "category_names": ("cat",),
    }
    return AuditSample(**(values | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"image": torch.full((3, 10, 12), 8.0)},
        {"boxes": torch.tensor([[1.0, 2, 5, 7]])},
        {"labels": torch.tensor([2])},
        {"masks": torch.eye(10, 12, dtype=torch.bool)[None]},
        {"image_id": 5},
        {"annotation_ids": (41,)},
        {"category_names": ("dog",)},
    ],
)
def test_samples_are_told_apart_by_everything_in_them(changes):
    assert samples_sha256([sample()]) == samples_sha256([sample(file_name="for people")])
    assert samples_sha256([sample(**changes)]) != samples_sha256([sample()])
    assert samples_sha256([sample(), sample()]) != samples_sha256([sample()])


def test_reading_a_set_loads_no_torch():
    modules = "odsg_lightning.records.audit_set, odsg_lightning.records.partial"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
