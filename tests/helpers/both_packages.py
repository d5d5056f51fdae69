"""A small detector and its training, as a LightningModule of either of Lightning's packages."""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from helpers.known_module import TWO
from torch import nn
from torch.utils.data import DataLoader

from odsg_lightning.types import Detections

PACKAGES = ("lightning.pytorch", "pytorch_lightning")


class SmallDetector(nn.Module):
    """Finds both objects of TWO, moved a little by what it sees; has what an audit could disturb."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(), nn.Dropout(0.2))
        self.head = nn.Linear(4 * 24 * 24, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images / 255).flatten(1)).reshape(-1, 2, 5)

    def detect(self, images: list[torch.Tensor]) -> list[Detections]:
        boxes, labels = torch.tensor(TWO, dtype=torch.float32), torch.tensor([0, 1])
        moved = self(torch.stack(list(images))).tanh()
        return [Detections(boxes + one[:, :4] / 10, 0.9 + one[:, 4] / 20, labels) for one in moved]


def small_module(package: str) -> Any:
    """The same weights under either package."""

    class SmallModule(import_module(package).LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.detector = SmallDetector()

        def detect(self, images):
            return self.detector.detect(images)

        def training_step(self, batch, _):
            loss = self.detector(batch).square().mean()
            self.log("train/loss", loss)
            return loss

        def validation_step(self, batch, _):
            self.log("val/own", self.detector(batch).mean())

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), 1e-2)

        def train_dataloader(self):
            return DataLoader(255 * torch.rand(8, 3, 24, 24, generator=torch.Generator().manual_seed(2)), batch_size=2)

        val_dataloader = train_dataloader

    torch.manual_seed(1)
    return SmallModule()


def trainer_of(package: str, callbacks: Any, folder: Path | None = None, **settings: Any) -> Any:
    """A quiet Trainer of either package that validates every second step, and logs to TensorBoard into a folder."""
    lightning = import_module(package)
    logger = import_module(f"{package}.loggers").TensorBoardLogger(folder, name="logs", version=0) if folder else False
    quiet = ("enable_progress_bar", "enable_model_summary", "enable_checkpointing")
    cadence = {"max_steps": 4, "val_check_interval": 2, "log_every_n_steps": 1, "num_sanity_val_steps": 0}
    defaults = {"accelerator": "cpu", "devices": 1, "logger": logger, **dict.fromkeys(quiet, False), **cadence}
    return lightning.Trainer(callbacks=callbacks, **(defaults | settings))
