import pytest
import torch
from torch import multiprocessing

from odsg_lightning.training.average_precision import CocoAveragePrecision
from odsg_lightning.types import Detections


def add_image(precision, image_id, hit=True, score=0.9):
    """One object, found or missed by 50 px."""
    box = torch.tensor([[10.0, 10.0, 40.0, 30.0 + image_id]])
    found = Detections(box if hit else box + 50, torch.tensor([score]), torch.tensor([0]))
    precision.update(image_id, found, {"boxes": box, "labels": found.labels, "iscrowd": torch.tensor([0])})


def values(precision):
    return {name: round(float(value), 4) for name, value in precision.compute().items()}


@pytest.mark.parametrize("backend", ["pycocotools", "faster_coco_eval"])
def test_two_hits_before_two_misses(backend):
    # Recall reaches 0.5 at precision 1 and never more: 51 of COCO's 101 recall points.
    precision = CocoAveragePrecision(backend)
    for image_id in range(4):
        add_image(precision, image_id, hit=image_id < 2, score=0.9 - 0.1 * image_id)
    expected = round(51 / 101, 4)
    assert values(precision) == {"map": expected, "map_50": expected, "map_75": expected}


def test_an_image_counts_once():
    precision = CocoAveragePrecision("pycocotools")
    add_image(precision, 0)
    add_image(precision, 1, hit=False, score=0.1)
    once = values(precision)
    add_image(precision, 0)
    assert values(precision) == once == {name: round(51 / 101, 4) for name in once}


def test_without_ground_truth_it_is_minus_one():
    assert values(CocoAveragePrecision("pycocotools")) == {"map": -1.0, "map_50": -1.0, "map_75": -1.0}


def test_reset_forgets():
    precision = CocoAveragePrecision("pycocotools")
    add_image(precision, 0)
    precision.reset()
    assert values(precision)["map"] == -1.0


def one_process(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    precision = CocoAveragePrecision("pycocotools")
    # Unequal shares, and image 0, a hit, in both, as from a sampler that pads.
    for image_id in ([0, 1, 2], [3, 0])[rank]:
        add_image(precision, image_id, hit=image_id < 2, score=0.9 - 0.1 * image_id)
    torch.save(values(precision), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_with_unequal_shares_agree_with_one(tmp_path):
    multiprocessing.spawn(one_process, args=(str(tmp_path),), nprocs=2)
    expected = {name: round(51 / 101, 4) for name in ("map", "map_50", "map_75")}
    assert torch.load(tmp_path / "0.pt") == torch.load(tmp_path / "1.pt") == expected
