"""Small random batches and data modules for tests of the training module, without any file."""

from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader


def make_sample(index: int, size: int = 64, num_classes: int = 3, scale: int = 2) -> dict[str, Any]:
    """Two bright rectangles on noise; the original image is `scale` times larger than the network's."""
    generator = torch.Generator().manual_seed(1000 + index)
    image = torch.randint(0, 80, (3, size, size), generator=generator).float()
    corners = torch.rand(2, 2, generator=generator) * (size / 2)
    boxes = torch.cat([corners, corners + size * 0.4], dim=1).round()
    for x0, y0, x1, y1 in boxes.int().tolist():
        image[:, y0:y1, x0:x1] = 220.0
    labels = torch.tensor([index % num_classes, (index + 1) % num_classes])
    return {
        "image": image.to(torch.uint8),
        "boxes": boxes,
        "labels": labels,
        "image_id": 10 + index,
        "height": size * scale,
        "width": size * scale,
        "target": {"boxes": boxes * scale, "labels": labels, "iscrowd": torch.zeros(2, dtype=torch.int64)},
    }


class TinyDataModule(LightningDataModule):
    """`length` samples in a fixed order, two a batch."""

    def __init__(self, length: int = 4, num_classes: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self._samples = [make_sample(index, num_classes=num_classes) for index in range(length)]

    def _loader(self) -> DataLoader:
        return DataLoader(self._samples, batch_size=2, collate_fn=list)

    train_dataloader = val_dataloader = test_dataloader = predict_dataloader = _loader


def make_trainer(**settings: Any) -> Trainer:
    """A silent CPU trainer that writes nothing unless told to."""
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_steps": 1,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "log_every_n_steps": 1,
    }
    return Trainer(**{**defaults, **settings})
