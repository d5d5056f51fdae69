import json
from collections import Counter

import pytest
from helpers.coco_files import CATEGORIES, CROWD, annotation_record, gradient_image, image_record, make_data

from odsg_lightning.data.audit_samples import splitmix64
from odsg_lightning.data.audit_set_choice import choose_audit_set
from odsg_lightning.data.audit_set_files import load_sample, unchanged_dataset
from odsg_lightning.errors import BrokenInputError, MissingFileError, UserInputError
from odsg_lightning.records.audit_set import read_audit_set, write_audit_set

SIZES = {"min_size": 60, "max_size": 1333}
CAT, DOG = 3, 7


def choose(files, **options):
    with pytest.warns(UserWarning, match="At least 16 are recommended"):
        chosen, objects = choose_audit_set(files.json, files.images_dir, **(SIZES | options))
    return chosen, objects


def many(files, classes):
    """One image for each entry, which lists the classes of its objects."""
    files.images = [image_record(i) for i in range(1, len(classes) + 1)]
    files.annotations = [
        annotation_record(1000 * i + k, i, category_id=category)
        for i, categories in enumerate(classes, 1)
        for k, category in enumerate(categories)
    ]
    return files.write()


def brute_force(classes, count, seed):
    order = sorted(range(1, len(classes) + 1), key=lambda i: splitmix64(splitmix64(seed) ^ i))
    chosen, seen = [], Counter()
    while len(chosen) < count:
        for category in sorted((CAT, DOG), key=lambda c: (seen[c], c)):
            image = next((i for i in order if i not in chosen and category in classes[i - 1]), None)
            if image:
                break
        else:
            break
        chosen.append(image)
        seen.update(classes[image - 1])
    return sorted(chosen), [seen[CAT], seen[DOG]]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_rare_class_gets_its_share(val, seed):
    classes = [[DOG] if i % 8 == 0 else [CAT] * (1 + i % 3) for i in range(40)]
    chosen, objects = choose(many(val, classes), count=8, seed=seed)
    assert ([image.id for image in chosen.images], objects) == brute_force(classes, 8, seed)
    assert objects[1] >= 4  # of five dogs in 40 images, where chance would find one


def test_more_images_than_there_are(val):
    chosen, objects = choose(many(val, [[CAT], [], [DOG, CAT]]), count=12)
    assert [image.id for image in chosen.images] == [1, 3]
    assert objects == [2, 1]


def test_only_usable_objects_count(val):
    val.images = [image_record(i) for i in (1, 2, 3)]
    val.annotations = [
        annotation_record(11, 1, category_id=DOG, **CROWD),
        annotation_record(12, 1),
        annotation_record(21, 2, category_id=DOG, segmentation=None),
        annotation_record(31, 3, category_id=DOG),
    ]
    chosen, objects = choose(val.write(), count=2)
    assert {image.id: image.annotation_ids for image in chosen.images} == {1: (12,), 3: (31,)}
    assert objects == [1, 1]


def test_named_images(val):
    files = many(val, [[CAT], [DOG], [CAT], []])
    assert [image.id for image in choose(files, image_ids=[3, 1])[0].images] == [1, 3]
    for ids, message in (([9, 1], r"but got \[9\]"), ([4], r"images \[4\] have none"), ([], "none at all")):
        with pytest.raises(UserInputError, match=message):
            choose_audit_set(files.json, files.images_dir, image_ids=ids, **SIZES)


def test_sixteen_images_are_enough_for_no_warning(val, recwarn):
    chosen, _ = choose_audit_set(many(val, [[CAT, DOG]] * 20).json, val.images_dir, **SIZES)
    assert len(chosen.images) == 16
    assert not [warning for warning in recwarn if "recommended" in str(warning.message)]


def test_the_same_arguments_give_the_same_bytes(val, tmp_path):
    many(val, [[CAT], [DOG]] * 6)
    for name in ("a.json", "b.json"):
        write_audit_set(choose(val, count=6)[0], tmp_path / name)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_broken_image_is_refused_at_once(val):
    many(val, [[CAT], [DOG]])
    (val.images_dir / "2.png").write_bytes(b"no picture")
    with pytest.raises(BrokenInputError, match=r"2\.png to be a complete image"):
        choose_audit_set(val.json, val.images_dir, count=2, **SIZES)


def test_what_changed_is_named(val):
    chosen, _ = choose(many(val, [[CAT], [DOG], [CAT]]), count=3)
    assert len(unchanged_dataset(chosen).images) == 3
    gradient_image(40, 30).rotate(180).save(val.images_dir / "1.png")
    with pytest.raises(BrokenInputError, match=r"1 thing changed[^-]*- image id 1 \('1.png'\): its image file$"):
        unchanged_dataset(chosen)
    content = json.loads(val.json.read_text())
    content["annotations"][1]["bbox"][0] += 1
    content["annotations"].append(annotation_record(999, 1, **CROWD))
    content["categories"][0]["name"] = "wolf"
    content["images"].pop()
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 3]
    val.json.write_text(json.dumps(content))
    with pytest.raises(BrokenInputError) as refused:
        unchanged_dataset(chosen)
    assert str(refused.value).splitlines()[1:] == [
        "  - its categories",
        "  - image id 1 ('1.png'): its image file and its annotations",
        "  - image id 2 ('2.png'): its annotations",
        "  - image id 3 ('3.png'): it is not in the file any more",
    ]


def test_all_changes_are_counted_and_ten_named(val):
    chosen, _ = choose_audit_set(many(val, [[CAT]] * 17).json, val.images_dir, count=17, **SIZES)
    for path in val.images_dir.iterdir():
        gradient_image(40, 30).rotate(180).save(path)
    with pytest.raises(BrokenInputError, match=r"17 things changed") as refused:
        unchanged_dataset(chosen)
    assert str(refused.value).count("its image file") == 10
    assert "and 7 more" in str(refused.value)


def test_what_does_not_matter_may_change(val, tmp_path):
    chosen, _ = choose(many(val, [[CAT], [DOG], [CAT]]), count=2)
    content = json.loads(val.json.read_text())
    content["info"] = {"year": 2026}
    content["annotations"].reverse()
    content["annotations"][0]["area"] = 5
    moved = tmp_path / "moved.json"
    moved.write_text(json.dumps(content, indent=4))
    val.json.unlink()
    images = val.images_dir.rename(tmp_path / "pictures")
    assert [i.id for i in unchanged_dataset(chosen, moved, images).images] == [i.id for i in chosen.images]
    with pytest.raises(MissingFileError, match=r"Expected a COCO JSON file at .*, but No such file"):
        unchanged_dataset(chosen)


def test_training_and_the_file_agree(train, val, tmp_path):
    many(val, [[CAT], [DOG], [CAT], [DOG, CAT]])
    chosen, _ = choose(val, count=2, seed=5)
    write_audit_set(chosen, tmp_path / "set.json")
    read = read_audit_set(tmp_path / "set.json")
    ids = [image.id for image in read.images]
    named = make_data(train, val, audit_image_ids=ids)
    from_file = make_data(train, val, audit_set=tmp_path / "set.json", min_size_eval=30)
    assert from_file.audit_set_sha256() == named.audit_set_sha256() == chosen.sha256
    coco = unchanged_dataset(read)
    for sample, other, image in zip(from_file.audit_samples(), named.audit_samples(), coco.images, strict=True):
        third = load_sample(read, coco, image)
        assert sample.image.equal(other.image)
        assert sample.masks.equal(other.masks)
        assert sample.image.equal(third.image)
        assert sample.annotation_ids == other.annotation_ids == third.annotation_ids
    assert make_data(train, val, audit_images=3).audit_set_sha256() != chosen.sha256
    assert make_data(train, val, audit_image_ids=ids, min_size_eval=61).audit_set_sha256() != chosen.sha256
    boxes = make_data(train, val, audit_image_ids=ids, audit_masks="box")
    assert (boxes.audit_set_masks(), named.audit_set_masks()) == ("box", "segmentation")
    assert boxes.audit_set_sha256() == choose(val, image_ids=ids, masks="box")[0].sha256 != chosen.sha256


def test_training_refuses_a_set_whose_files_changed(train, val, tmp_path):
    many(val, [[CAT], [DOG]])
    write_audit_set(choose(val, count=2)[0], tmp_path / "set.json")
    val.categories = [*CATEGORIES, {"id": 9, "name": "fox"}]
    with pytest.raises(BrokenInputError, match="its categories"):
        make_data(train, val, audit_set=tmp_path / "set.json").audit_samples()


def test_giants_are_refused_before_a_mask_is_drawn(val):
    many(val, [[CAT], [DOG]])
    content = json.loads(val.json.read_text())
    side = 10**6
    content["images"][0] |= {"height": side, "width": side}
    content["annotations"][0] |= {"segmentation": {"size": [side, side], "counts": [0, side * side]}}
    val.json.write_text(json.dumps(content))
    with pytest.raises(BrokenInputError, match=r"1000000x1000000 pixels exceed Pillow's limit"):
        choose_audit_set(val.json, val.images_dir, count=2, **SIZES)


def test_masks_of_gigabytes_are_refused(val):
    many(val, [[CAT] * 300, [DOG]])
    with pytest.raises(UserInputError, match="300 objects at 8192 x 10923 pixels"):
        choose_audit_set(val.json, val.images_dir, image_ids=[1], min_size=8192, max_size=20000)
