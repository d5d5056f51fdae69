"""Strips as the package draws and stores them."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from odsg_lightning.records.maps_file import ObjectMaps
from odsg_lightning.records.record import AuditRecord, write_record, write_record_with_maps
from odsg_lightning.viz.strip import HiddenPixels, object_strip


def strip(
    height: int = 120,
    width: int = 120,
    box: tuple[int, int, int, int] = (30, 30, 80, 90),
    colour: int | None = None,
) -> np.ndarray:
    """A strip of eight panels of a smooth image, or of one of a single colour."""

    def smooth(channels: int, seed: int) -> torch.Tensor:
        noise = torch.rand(1, channels, 6, 6, generator=torch.Generator().manual_seed(seed))
        return torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")[0]

    image = smooth(3, 0) * 255 if colour is None else torch.full((3, height, width), float(colour))
    maps, edges = smooth(5, 1), torch.tensor(box, dtype=torch.float32)
    return object_strip(
        image,
        maps,
        maps > 0.5,
        ground_truth_box=edges,
        detected_box=edges,
        mask=None,
        title="cat " * 40,
        hidden=[HiddenPixels("score 0.90", image), HiddenPixels("not detected", image)],
    )


def lossy(pixels: np.ndarray) -> bytes:
    """The picture as an audit stores it."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "WEBP", quality=80)
    return stream.getvalue()


def write_with_strips(record: AuditRecord, path: Path) -> None:
    """Write a record and, beside it, a drawn strip of every detected object."""
    item = ObjectMaps(np.ones((5, 6, 6), np.float16), np.ones((5, 6, 6), bool), lossy(strip()))
    written = write_record_with_maps(record, path, [(row.key, item) for row in record.objects if not row.missed])
    write_record(replace(written, accepted=record.accepted), path)
