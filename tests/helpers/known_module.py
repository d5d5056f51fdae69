"""A LightningModule that is its own detector, with a gradient known beforehand."""

from typing import Any

import torch
from helpers.known_detectors import LinearDetector, box_sample
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader

from odsg_lightning import ODSmoothGradCallback
from odsg_lightning.occlusion.evidence import NECESSITY, SUFFICIENCY

TWO = [[2, 2, 12, 12], [10, 8, 22, 20]]

HIDDEN = len(SUFFICIENCY) + len(NECESSITY)
"""Pictures with hidden pixels that an audit shows of each object, if neither too much nor too little is hidden."""


class SelfDetectingModule(LightningModule):
    """Is its own detector, a linear one found again in every noise sample, and trains one number."""

    def __init__(self, known: LinearDetector):
        super().__init__()
        self.known = known
        self.number = torch.nn.Parameter(torch.ones(()))

    def detect(self, images):
        return self.known.detect(images)

    def training_step(self, batch, _):
        return (self.number * batch).mean()

    def validation_step(self, batch, _):
        self.log("val/own", 1.0)

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def train_dataloader(self):
        return DataLoader(torch.rand(8, 1))

    val_dataloader = test_dataloader = train_dataloader


class KnownModule(SelfDetectingModule):
    """Detects both objects of :data:`TWO`."""

    def __init__(self, scores=(0.95, 0.97)):
        base = torch.cat([torch.tensor(TWO, dtype=torch.float32), torch.tensor(scores)[:, None]], 1)
        # Each box map lights up its own edge third of the object, the score map the whole object.
        weights = torch.zeros(2, 5, 3, 24, 24)
        for index, (x0, y0, x1, y1) in enumerate(TWO):
            weights[index, 0, 0, y0:y1, x0] = 1e-6
            weights[index, 1, 1, y0, x0:x1] = 1e-6
            weights[index, 2, 2, y0:y1, x1 - 1] = 1e-6
            weights[index, 3, 0, y1 - 1, x0:x1] = 1e-6
            weights[index, 4, 1, y0:y1, x0:x1] = 1e-6
        super().__init__(LinearDetector(base, weights, torch.tensor([0, 1])))


class DriftingModule(KnownModule):
    """Its maps move from one pattern to another, step by step, whatever the random numbers are."""

    def __init__(self, scores=(0.95, 0.97)):
        super().__init__(scores)
        patterns = torch.rand(2, *self.known.weights.shape, generator=torch.Generator().manual_seed(5)) ** 4
        self.patterns = 1e-6 * patterns

    def weights_at(self, number):
        return self.patterns[0] + (1 - number) * 3 * self.patterns[1]

    def detect(self, images):
        self.known.weights = self.weights_at(self.number.detach())
        return super().detect(images)

    def training_step(self, batch, _):
        return self.number * 1.0  # 0.1 less each step


def known_audit(**settings: Any) -> ODSmoothGradCallback:
    return ODSmoothGradCallback(
        **({"audit_samples": [box_sample(TWO, [0, 1])], "n_samples": 2, "blur_sigma": 0} | settings)
    )
