import json

import pytest
import torch
import yaml
from helpers.coco_files import annotation_record, make_data
from jsonargparse import ArgumentParser
from lightning import LightningModule, Trainer

from odsg_lightning import CocoDetectionDataModule
from odsg_lightning.errors import BrokenInputError, MissingFileError, UserInputError


class Recorder(LightningModule):
    """Takes batches and learns nothing."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen += [("train", len(batch), sample["image_id"]) for sample in batch]
        return self.weight * 1.0

    def validation_step(self, batch, batch_idx):
        self.seen += [("val", len(batch), sample["image_id"]) for sample in batch]

    def test_step(self, batch, batch_idx):
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch, batch_idx):
        self.validation_step(batch, batch_idx)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(tmp_path, **options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(
        accelerator="cpu", max_epochs=1, default_root_dir=tmp_path, enable_model_summary=False, **{**quiet, **options}
    )


def test_with_a_trainer(train, val, tmp_path):
    model, data = Recorder(), make_data(train, val)
    run = trainer(tmp_path, num_sanity_val_steps=0)

    run.fit(model, data)

    assert sorted(model.seen) == [("train", 2, 1), ("train", 2, 2), ("val", 2, 1), ("val", 2, 2)]
    for function in (run.validate, run.test, run.predict):
        model.seen.clear()
        function(model, datamodule=data)
        assert model.seen == [("val", 2, 1), ("val", 2, 2)]


def test_validation_needs_no_training_files(train, val, tmp_path):
    data = make_data(train, val)
    train.json.unlink()

    trainer(tmp_path).validate(Recorder(), data, verbose=False)

    with pytest.raises(MissingFileError, match="Expected a COCO JSON file"):
        trainer(tmp_path).fit(Recorder(), data)


def test_broken_image_is_found_before_the_first_step(train, val, tmp_path):
    model, data = Recorder(), make_data(train, val)
    path = train.images_dir / "2.png"
    path.write_bytes(path.read_bytes()[:80])

    with pytest.raises(BrokenInputError, match=r"(?s)1 are not:.*image id 2: "):
        trainer(tmp_path).fit(model, data)
    assert model.seen == []

    trainer(tmp_path).validate(model, data, verbose=False)
    data.check_images = False
    with pytest.raises(BrokenInputError, match=r"2\.png to be a complete image file"):
        trainer(tmp_path).fit(model, data)


def test_setup_reads_once(train, val, monkeypatch):
    data = make_data(train, val)
    data.setup("validate")
    data.setup("fit")
    train.json.unlink()
    val.json.unlink()

    data.setup()
    assert len(data.train_dataloader()) == len(data.val_dataloader()) == 1


def test_categories_are_known_before_setup(train, val):
    data = make_data(train, val)
    train.json.unlink()

    assert data.num_classes == 2
    assert data.category_names == ["cat", "dog"]
    assert data.category_ids == [3, 7]


def test_categories_must_agree(train, val):
    train.categories = [*train.categories, {"id": 9, "name": "cow"}]

    with pytest.raises(
        BrokenInputError, match=r"(?s)same categories, but \['9: cow'\] in training only, and \[\] in val"
    ):
        make_data(train, val).setup("fit")


def test_nothing_to_train_on(train, val):
    train.annotations = []

    with pytest.raises(BrokenInputError, match=r"an object to train on, but each of its 2 images is empty"):
        make_data(train, val).setup("fit")


def test_bad_records_are_errors_or_skipped(train, val):
    train.annotations.append(annotation_record(13, 1, bbox=[1, 1, 0, 0]))

    with pytest.raises(BrokenInputError, match="annotation id 13"):
        make_data(train, val).setup("fit")
    data = make_data(train, val, bad_records="skip")
    data.setup("fit")
    assert len(data.train_dataset) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "Expected batch_size to be an integer of at least 1, but got 0"),
        ({"min_size": []}, "Expected min_size to name at least one length"),
        ({"min_size": [600, 0]}, "Expected min_size to be an integer of at least 1, but got 0"),
        ({"max_size": 1.5}, "Expected max_size to be an integer of at least 1, but got 1.5"),
        ({"min_size_eval": -1}, "Expected min_size_eval to be"),
        ({"flip": 1.5}, "Expected flip to be a probability from 0 to 1, but got 1.5"),
        ({"num_workers": -1}, "Expected num_workers to be an integer of at least 0"),
        ({"audit_images": 0}, "Expected audit_images to be an integer of at least 1"),
        ({"audit_masks": "none"}, r"Expected audit_masks to be one of \['segmentation', 'box'\], but got 'none'"),
        ({"bad_records": "ignore"}, r"Expected bad_records to be one of \['error', 'skip'\], but got 'ignore'"),
    ],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(UserInputError, match=message):
        CocoDetectionDataModule("a.json", "a", "b.json", "b", **options)


def test_arguments_come_from_yaml(train, val):
    make_data(train, val)
    parser = ArgumentParser()
    parser.add_class_arguments(CocoDetectionDataModule, "data")
    options = {
        "train_annotations": str(train.json),
        "train_images": str(train.images_dir),
        "val_annotations": str(val.json),
        "val_images": str(val.images_dir),
        "min_size": [20, 30],
        "audit_image_ids": [2],
        "audit_masks": "box",
        "num_workers": 0,
    }

    data = parser.instantiate_classes(parser.parse_string(yaml.safe_dump({"data": options}))).data

    assert data.min_size == (20, 30)
    assert [sample.image_id for sample in data.audit_samples()] == [2]


def test_a_whole_data_set(whole):
    data = CocoDetectionDataModule(
        whole.train_annotations,
        whole.train_images,
        whole.val_annotations,
        whole.val_images,
        min_size=[200, 240],
        min_size_eval=240,
        max_size=400,
        num_workers=0,
    )
    data.prepare_data()
    data.setup("fit")

    categories = json.loads(whole.val_annotations.read_text())["categories"]
    assert data.category_names == [category["name"] for category in sorted(categories, key=lambda c: c["id"])]
    assert data.num_classes == len(categories)
    batch = next(iter(data.train_dataloader()))
    for sample in batch:
        height, width = sample["image"].shape[1:]
        assert len(sample["boxes"]) == len(sample["labels"]) > 0
        assert (sample["boxes"] >= 0).all()
        assert (sample["boxes"] <= torch.tensor([width, height] * 2)).all()
    samples = data.audit_samples()
    assert len({sample.image_id for sample in samples}) == 16
    inside = total = 0
    for sample in samples:
        for mask, (x1, y1, x2, y2) in zip(sample.masks, sample.boxes.tolist(), strict=True):
            rows, columns = mask.nonzero(as_tuple=True)
            inside += int(((columns + 1 > x1) & (columns < x2) & (rows + 1 > y1) & (rows < y2)).sum())
            total += len(rows)
    assert inside / total > 0.99  # masks and boxes are on the same grid
