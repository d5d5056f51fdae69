import pytest
import torch
from helpers.coco_files import CROWD, annotation_record, image_record, make_data
from hypothesis import given
from hypothesis import strategies as st

from odsg_lightning.data.coco import read_coco
from odsg_lightning.data.dataset import DetectionDataset, flip_boxes, resize_boxes, shortest_edge_size


@pytest.mark.parametrize(
    ("height", "width", "min_size", "max_size", "expected"),
    [
        (480, 640, 800, 1333, (800, 1067)),  # 1066.67
        (640, 480, 800, 1333, (1067, 800)),
        (427, 640, 800, 1333, (800, 1199)),  # 1199.06
        (300, 1000, 800, 1333, (400, 1333)),  # the longer edge decides: 399.9
        (128, 128, 128, 128, (128, 128)),
        (1, 5000, 800, 1333, (1, 1333)),
    ],
)
def test_shortest_edge_size_by_hand(height, width, min_size, max_size, expected):
    assert shortest_edge_size(height, width, min_size, max_size) == expected


side = st.integers(1, 5000)


@given(side, side, side, side)
def test_shortest_edge_size_stays_within_its_limits(height, width, min_size, max_size):
    size = shortest_edge_size(height, width, min_size, max_size)

    assert 1 <= min(size) <= min_size
    assert max(size) <= max_size
    assert min(size) == min_size or max(size) == max_size


def test_resize_and_flip_of_boxes_by_hand():
    boxes = torch.tensor([[4.0, 6.0, 14.0, 14.0], [0.0, 0.0, 40.0, 30.0]])

    resized = resize_boxes(boxes, (30, 40), (60, 120))

    assert resized.tolist() == [[12, 12, 42, 28], [0, 0, 120, 60]]
    assert flip_boxes(resized, 120).tolist() == [[78, 12, 108, 28], [0, 0, 120, 60]]
    assert resize_boxes(torch.zeros(0, 4), (3, 4), (6, 8)).shape == (0, 4)


def test_evaluation_batch(train, val):
    val.annotations.append(annotation_record(13, 1, **CROWD))
    (batch,) = make_data(train, val).val_dataloader()

    assert isinstance(batch, list)
    assert [sample["image_id"] for sample in batch] == [1, 2]
    sample = batch[0]
    assert (sample["image"].dtype, sample["image"].shape) == (torch.uint8, (3, 60, 80))
    assert (sample["height"], sample["width"], sample["file_name"]) == (30, 40, "1.png")
    assert sample["boxes"].dtype == torch.float32
    assert sample["boxes"].tolist() == [[8, 12, 28, 28]]
    assert sample["labels"].dtype == torch.int64
    assert sample["labels"].tolist() == [0]
    assert batch[1]["labels"].tolist() == [1]
    target = sample["target"]
    assert target["boxes"].tolist() == [[4, 6, 14, 14], [0, 0, 40, 30]]
    assert target["labels"].tolist() == [0, 0]
    assert target["iscrowd"].tolist() == [0, 1]
    assert (target["labels"].dtype, target["iscrowd"].dtype) == (torch.int64, torch.int64)


def test_target_is_what_torchmetrics_takes(train, val):
    from torchmetrics.detection import MeanAveragePrecision

    val.annotations.append(annotation_record(13, 1, **CROWD))
    (batch,) = make_data(train, val).val_dataloader()
    metric = MeanAveragePrecision()
    found = [
        {"boxes": t["boxes"], "labels": t["labels"], "scores": torch.ones(len(t["labels"]))}
        for t in (sample["target"] for sample in batch)
    ]

    metric.update(found, [sample["target"] for sample in batch])

    assert float(metric.compute()["map"]) == pytest.approx(1.0)


def test_validation_images_without_objects_are_kept(train, val):
    val.annotations = val.annotations[:1]

    (batch,) = make_data(train, val).val_dataloader()

    assert batch[1]["boxes"].shape == batch[1]["target"]["boxes"].shape == (0, 4)
    assert batch[1]["labels"].dtype == torch.int64


@pytest.mark.parametrize(("flip", "x1", "corner"), [(0.0, 4, 0), (1.0, 26, 39)])
def test_training_batch_with_and_without_flip(train, val, flip, x1, corner):
    (batch,) = make_data(train, val, flip=flip).train_dataloader()
    sample = next(sample for sample in batch if sample["image_id"] == 1)

    assert "target" not in sample
    assert sample["image"][:, 0, 0].tolist() == [corner, 0, 128]  # red is the column before the flip
    assert sample["boxes"].tolist() == [[x1, 6, x1 + 10, 14]]


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_masks_follow_the_image_and_are_filled_boxes_where_there_are_none(train, flip):
    train.images = train.images[:1]
    train.annotations = [
        annotation_record(11, 1, segmentation=[[4, 6, 14, 6, 4, 14]]),  # the lower right half of its box is missing
        annotation_record(12, 1, **CROWD),
        annotation_record(13, 1, segmentation=[], bbox=[20, 0, 10, 8]),
    ]
    coco = read_coco(train.write().json, train.images_dir)
    (sample,) = DetectionDataset(coco, min_sizes=[60], max_size=80, flip=flip, training=True, masks=True)
    triangle, box = sample["masks"].flip(2) if flip else sample["masks"]
    assert triangle.shape == sample["image"].shape[1:] == (60, 80)
    assert triangle[12:28, 8:28].sum() == triangle.sum() == pytest.approx(160, rel=0.15)  # half of 16 x 20
    assert triangle[13, 9]
    assert not triangle[26, 26]
    expected = torch.zeros(60, 80, dtype=torch.bool)
    expected[0:16, 40:60] = True
    assert torch.equal(box, expected)
    (plain,) = DetectionDataset(coco, min_sizes=[60], max_size=80, training=True)
    assert "masks" not in plain


def test_training_leaves_out_crowds_and_images_without_an_object(train, val):
    train.images = [image_record(i) for i in (1, 2, 3)]
    train.annotations = [
        annotation_record(11, 1),
        annotation_record(12, 1, **CROWD),
        annotation_record(13, 2, **CROWD),
    ]
    (batch,) = make_data(train, val).train_dataloader()

    assert [(sample["image_id"], len(sample["boxes"])) for sample in batch] == [(1, 1)]


def test_training_draws_sizes_and_order(train, val):
    train.images = [image_record(i) for i in range(1, 21)]
    train.annotations = [annotation_record(i, i) for i in range(1, 21)]
    torch.manual_seed(0)
    batches = list(make_data(train, val, min_size=[30, 60], batch_size=5).train_dataloader())

    assert [len(batch) for batch in batches] == [5, 5, 5, 5]
    samples = [sample for batch in batches for sample in batch]
    assert {tuple(sample["image"].shape) for sample in samples} == {(3, 30, 40), (3, 60, 80)}
    ids = [sample["image_id"] for sample in samples]
    assert sorted(ids) == list(range(1, 21)) != ids


def test_max_size_limits_both(train, val):
    data = make_data(train, val, max_size=20)

    assert data.train_dataset[0]["image"].shape == data.val_dataset[0]["image"].shape == (3, 15, 20)


def test_changing_a_batch_in_place_leaves_the_data_alone(train, val):
    data = make_data(train, val)
    sample = data.val_dataset[0]

    for tensor in (sample["boxes"], sample["labels"], *sample["target"].values()):
        tensor.fill_(99)

    sample = data.val_dataset[0]
    assert (sample["boxes"].tolist(), sample["labels"].tolist()) == ([[8, 12, 28, 28]], [0])
    assert sample["target"]["boxes"].tolist() == [[4, 6, 14, 14]]
    assert (sample["target"]["labels"].tolist(), sample["target"]["iscrowd"].tolist()) == ([0], [0])


def test_workers_give_the_same(train, val):
    data = make_data(train, val, num_workers=1)
    loader = data.val_dataloader()

    assert loader.persistent_workers
    for here, there in zip(next(iter(make_data(train, val).val_dataloader())), next(iter(loader)), strict=True):
        assert torch.equal(here["image"], there["image"])
