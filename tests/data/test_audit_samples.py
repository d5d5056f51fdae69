import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.coco_files import CROWD, annotation_record, image_record, make_data

from odsg_lightning.data.audit_samples import splitmix64
from odsg_lightning.errors import BrokenInputError, UserInputError


def test_audit_sample_by_hand(train, val):
    val.annotations = [
        annotation_record(15, 1, category_id=7, bbox=[20, 10, 5, 5]),
        annotation_record(11, 1, bbox=[4, 6, 10, 8]),
        annotation_record(12, 1, **CROWD),
        annotation_record(13, 1, segmentation=None),
    ]
    data = make_data(train, val, audit_images=1)

    (sample,) = data.audit_samples()

    assert (sample.image_id, sample.file_name) == (1, "1.png")
    assert sample.annotation_ids == (11, 15)
    assert sample.category_names == ("cat", "dog")
    assert sample.labels.tolist() == [0, 1]
    assert sample.boxes.tolist() == [[8, 12, 28, 28], [40, 20, 50, 30]]
    expected = torch.zeros(2, 60, 80, dtype=torch.bool)
    expected[0, 12:28, 8:28] = True
    expected[1, 20:30, 40:50] = True
    assert torch.equal(sample.masks, expected)
    assert sample.image.dtype == torch.float32
    assert torch.equal(sample.image, data.val_dataset[0]["image"].float())


def test_masks_shrink_in_step_with_boxes(train, val):
    val.annotations = [annotation_record(11, 1, bbox=[4, 6, 12, 8]), annotation_record(12, 1, bbox=[0, 0, 1, 1])]
    data = make_data(train, val, min_size_eval=15, audit_images=1)

    (sample,) = data.audit_samples()

    # Of the two, one is too small for the grid of pixel centres 1, 3, 5, ... of the original.
    assert sample.annotation_ids == (11,)
    expected = torch.zeros(1, 15, 20, dtype=torch.bool)
    expected[0, 3:7, 2:8] = True
    assert torch.equal(sample.masks, expected)


def test_box_masks(train, val):
    val.annotations = [annotation_record(11, 1, bbox=[4, 6, 10, 8], segmentation=[])]

    with pytest.raises(UserInputError, match=r'to have segmentations for the audit.*set audit_masks="box"'):
        make_data(train, val).audit_samples()
    (sample,) = make_data(train, val, audit_masks="box", audit_images=1).audit_samples()
    expected = torch.zeros(1, 60, 80, dtype=torch.bool)
    expected[0, 12:28, 8:28] = True
    assert torch.equal(sample.masks, expected)


def test_explicit_audit_images(train, val):
    val.images = [image_record(i) for i in (5, 3, 9)]
    val.annotations = [annotation_record(11, 5), annotation_record(12, 3), annotation_record(13, 9, **CROWD)]

    samples = make_data(train, val, audit_image_ids=[5, 3]).audit_samples()

    assert [sample.image_id for sample in samples] == [3, 5]
    with pytest.raises(UserInputError, match=r"to be image ids of .*, but it has no images \[4, 6\]"):
        make_data(train, val, audit_image_ids=[6, 5, 4]).audit_samples()
    with pytest.raises(UserInputError, match=r"at least one usable object .* but images \[9\] have none"):
        make_data(train, val, audit_image_ids=[5, 9]).audit_samples()
    with pytest.raises(UserInputError, match="audit_image_ids to name at least one image, but it is empty"):
        make_data(train, val, audit_image_ids=[]).audit_samples()


def test_too_few_and_no_audit_images(train, val):
    with pytest.warns(UserWarning, match="Expected 5 audit images, but .* has only 2 with a usable object"):
        samples = make_data(train, val, audit_images=5).audit_samples()
    assert [sample.image_id for sample in samples] == [1, 2]

    val.annotations = [annotation_record(11, 1, **CROWD)]
    with pytest.raises(BrokenInputError, match="none of its 2 images has an object"):
        make_data(train, val).audit_samples()


def _many(files, count):
    files.images = [image_record(i) for i in range(1, count + 1)]
    files.annotations = [annotation_record(i, i) for i in range(1, count + 1)]


def _ids(train, val, **options):
    return [sample.image_id for sample in make_data(train, val, **options).audit_samples()]


def test_splitmix64_against_its_published_stream():
    state = [(i * 0x9E3779B97F4A7C15) % 2**64 for i in range(3)]

    assert [splitmix64(value) for value in state] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_seed_chooses_the_audit_images(train, val):
    _many(val, 60)

    first = _ids(train, val, audit_images=8)

    assert first == [1, 18, 25, 27, 43, 47, 54, 58]  # for ever: records name these images
    assert first == sorted(first)
    assert len({tuple(_ids(train, val, audit_images=8, audit_seed=seed)) for seed in range(5)}) == 5
    assert set(_ids(train, val, audit_images=4)) < set(first)


def test_more_images_change_the_audit_set_little(train, val):
    _many(val, 60)
    before = set(_ids(train, val, audit_images=8))
    _many(val, 63)

    assert len(before & set(_ids(train, val, audit_images=8))) >= 5


def _random_states():
    return torch.get_rng_state().tolist(), pickle.dumps(np.random.get_state()), random.getstate()


def test_audit_set_neither_uses_nor_moves_global_random_streams(train, val):
    _many(val, 30)
    data = make_data(train, val, audit_images=4)
    sets = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        before = _random_states()
        sets.append(data.audit_samples())
        assert _random_states() == before

    for first, second in zip(*sets, strict=True):
        assert first.annotation_ids == second.annotation_ids
        assert torch.equal(first.image, second.image)
        assert torch.equal(first.masks, second.masks)


DIGEST = """
import hashlib, sys
from odsg_lightning import CocoDetectionDataModule
train, images, val, val_images = sys.argv[1:]
data = CocoDetectionDataModule(train, images, val, val_images, min_size_eval=60, audit_images=4)
digest = hashlib.sha256()
for s in data.audit_samples():
    digest.update(repr((s.image_id, s.annotation_ids, s.category_names)).encode())
    for tensor in (s.image, s.boxes, s.labels, s.masks):
        digest.update(tensor.numpy().tobytes())
print(digest.hexdigest(), any(name.split(".")[0] == "detectron2" for name in sys.modules))
"""


def test_audit_set_is_the_same_in_two_processes_and_needs_no_detectron2(train, val):
    _many(val, 30)
    make_data(train, val)
    arguments = [str(path) for path in (train.json, train.images_dir, val.json, val.images_dir)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", DIGEST, *arguments], stdout=subprocess.PIPE, text=True, env={"PYTHONHASHSEED": seed}
        )
        for seed in ("1", "2")
    ]
    first, second = (process.communicate(timeout=600)[0].split() for process in processes)

    assert first == second
    assert len(first[0]) == 64
    assert first[1] == "False"
