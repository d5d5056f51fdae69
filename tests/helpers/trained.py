"""Real detectors, trained for half a minute on generated shapes: enough to find many of them."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO
from torch import nn

from odsg_lightning.demo.shapes import make_shapes
from odsg_lightning.detectors.build import build_detector, load_config
from odsg_lightning.types import AuditSample


def train(name: str, folder: Path, iterations: int) -> nn.Module:
    """Train a tiny detector with plain PyTorch and return it in eval mode, its parameters still trainable."""
    from detectron2.structures import Boxes, Instances
    from detectron2.utils.events import EventStorage

    shapes = make_shapes(folder, n_train=240, n_val=24, seed=3)
    samples = load_samples(shapes.train_annotations, shapes.train_images)
    torch.manual_seed(0)
    model = build_detector(load_config(name)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=iterations, pct_start=0.15)
    generator = torch.Generator().manual_seed(0)
    with EventStorage():
        for _ in range(iterations):
            batch = []
            for index in torch.randint(len(samples), (8,), generator=generator).tolist():
                sample = samples[index]
                truth = Instances(tuple(sample.image.shape[1:]))
                truth.gt_boxes, truth.gt_classes = Boxes(sample.boxes), sample.labels
                batch.append({"image": sample.image.flip(0), "instances": truth})
            loss = sum(model(batch).values())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
    optimizer.zero_grad()
    return model.eval()


def load_samples(annotations: Path, images: Path) -> list[AuditSample]:
    """Read every image of a COCO file with pycocotools, independently of the data module."""
    coco = COCO(str(annotations))
    samples = []
    for image in coco.loadImgs(sorted(coco.getImgIds())):
        objects = coco.loadAnns(sorted(coco.getAnnIds(image["id"])))
        pixels = np.asarray(Image.open(images / image["file_name"]).convert("RGB"))
        xywh = torch.tensor([item["bbox"] for item in objects])
        samples.append(
            AuditSample(
                image=torch.from_numpy(pixels.copy()).permute(2, 0, 1).float(),
                boxes=torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1),
                labels=torch.tensor([item["category_id"] - 1 for item in objects]),
                masks=torch.from_numpy(np.stack([coco.annToMask(item) for item in objects]).astype(bool)),
                image_id=image["id"],
                annotation_ids=tuple(item["id"] for item in objects),
            )
        )
    return samples
