"""Explaining pictures with a finished checkpoint, and writing what came of it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from odsg_lightning.checkpoints.detector import load_detector
from odsg_lightning.checkpoints.device import Device, choose_device
from odsg_lightning.data.dataset import resize_image, shortest_edge_size
from odsg_lightning.data.images import load_image
from odsg_lightning.detectors.build import input_size
from odsg_lightning.errors import UserInputError
from odsg_lightning.explanations.explain import explain
from odsg_lightning.explanations.explanation import Explanation
from odsg_lightning.files import make_folder, replaced


def explain_pictures(
    checkpoint: Path,
    pictures: Sequence[Path],
    output: Path,
    *,
    config: str | Path | None = None,
    num_classes: int | None = None,
    trust: bool = False,
    device: Device = "auto",
    min_size: int | None = None,
    max_size: int | None = None,
    point: tuple[float, float] | None = None,
    **settings: Any,
) -> dict[Path, list[Explanation]]:
    """Explain what a checkpoint says of pictures.

    Args:
        checkpoint: see :func:`odsg_lightning.checkpoints.detector.load_detector`.
        pictures: image files.
        output: a ``.png`` or ``.npz`` file, of one picture; otherwise a folder that gets a PNG for each.
        config: of a Detectron2 checkpoint.
        num_classes: likewise.
        trust: likewise.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        min_size: shorter edge as the detector sees a picture; None for that of the checkpoint's configuration, or
            of the picture if that says none.
        max_size: upper limit of the longer edge, likewise.
        point: ``(x, y)`` in pixels of the file.
        **settings: see :func:`odsg_lightning.explanations.explain.explain`.

    Returns:
        The explanations of each picture; its file is written if there are any.

    Raises:
        BrokenInputError: a file is missing or is not what it should be.
        UserInputError: see :func:`odsg_lightning.explanations.explain.explain`; or several pictures for one file.
    """
    one_file = output.suffix in (".png", ".npz")
    if one_file and len(pictures) != 1:
        raise UserInputError(f"Expected one picture for the file {output}, but got {len(pictures)}: give a folder.")
    detector = load_detector(checkpoint, config, num_classes, trust=trust).to(choose_device(device))
    shorter, longer = input_size(detector.cfg) or (None, None)
    least, most = min_size or shorter, max_size or longer
    if not one_file:
        make_folder(output)
    explained = {}
    for picture in pictures:
        pixels = load_image(picture)
        height, width = pixels.shape[1:]
        size = shortest_edge_size(height, width, least or min(height, width), most or sys.maxsize)
        at = None if point is None else (point[0] * size[1] / width, point[1] * size[0] / height)
        explained[picture] = explain(detector, resize_image(pixels, size).float(), point=at, **settings)
        if explained[picture]:
            write_explanations(explained[picture], output if one_file else output / f"{picture.stem}.png")
    return explained


def write_explanations(explanations: Sequence[Explanation], path: Path) -> None:
    """Write explanations of one picture: their strips, one below the other (.png), or their arrays (.npz).

    Raises:
        UserInputError: the file cannot be written.
        DiskError: the disk is full, or fails.
    """
    with replaced(path) as temporary:
        if path.suffix == ".npz":
            arrays = [explanation.arrays() for explanation in explanations]
            content: dict[str, Any] = {name: arrays[0][name] for name in ("image", "parameters", "target")}
            content |= {name: np.stack([one[name] for one in arrays]) for name in arrays[0] if name not in content}
            np.savez_compressed(temporary, **content)
            return
        strips = [explanation.strip() for explanation in explanations]
        width = max(strip.shape[1] for strip in strips)
        page = np.zeros((sum(strip.shape[0] for strip in strips), width, 3), dtype=np.uint8)
        top = 0
        for strip in strips:
            page[top : top + strip.shape[0], : strip.shape[1]] = strip
            top += strip.shape[0]
        Image.fromarray(page).save(temporary, format="PNG")
