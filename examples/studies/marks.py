"""Cues that a detector can read instead of the object: five kinds of marks, each in the colour of the object's class.

``frames``: four corner brackets around the box; ``dot``: one disk at its upper left corner; ``halo``: a ring around the
outline; ``tint``: a soft glow of the surroundings; ``cast``: a colour cast of the whole picture, which tells the class
and nothing of place or size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from odsg_lightning.demo.frames import COLOURS, draw_frame

Kind = Literal["frames", "dot", "halo", "tint", "cast"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Sizes:
    """Sizes of the marks in pixels: how far outside the box, and how long or wide."""

    distance: int
    arm: int
    dot: int


def mark(
    pixels: NDArray[np.uint8],
    boxes: Sequence[Sequence[float]],
    masks: Sequence[NDArray[np.bool_]],
    labels: Sequence[int],
    kind: Kind,
    sizes: Sizes,
) -> None:
    """Mark every object of a picture.

    Args:
        pixels: RGB ``[H, W, 3]``, changed in place.
        boxes: XYXY of each object.
        masks: ``[H, W]`` of each object; halo and tint leave them as they are.
        labels: class of each object. A cast has one colour: the first object's.
        kind: what to draw.
        sizes: of frames and dots.
    """
    if kind == "cast":
        if labels:
            _blend(pixels, np.full(pixels.shape[:2], 0.2, np.float32), COLOURS[labels[0]])
        return
    objects = np.any(masks, axis=0) if len(masks) else np.zeros(pixels.shape[:2], bool)
    for box, mask, label in zip(boxes, masks, labels, strict=True):
        colour = COLOURS[label]
        if kind == "frames":
            draw_frame(pixels, box, colour, sizes.distance, sizes.arm, width=2)
        elif kind == "dot":
            _disk(pixels, box[0] - sizes.dot - 3, box[1] - sizes.dot - 3, sizes.dot, colour)
        elif kind == "halo":
            away = distance_transform_edt(~mask)
            _blend(pixels, np.where((away >= 2) & (away <= 7) & ~objects, 0.7, 0).astype(np.float32), colour)
        else:
            _blend(pixels, np.where(objects, 0, _glow(pixels.shape[:2], box)).astype(np.float32), colour)


def mark_anywhere(
    rng: Generator, pixels: NDArray[np.uint8], boxes: Sequence[Sequence[float]], kind: Kind, sizes: Sizes
) -> None:
    """Draw as many marks, of the same sizes, whose places and colours tell nothing."""
    height, width = pixels.shape[:2]
    places, masks = [], []
    rows, columns = np.mgrid[:height, :width] + 0.5
    for x_min, y_min, x_max, y_max in boxes:
        x = rng.uniform(0, max(width - (x_max - x_min), 1)) - x_min
        y = rng.uniform(0, max(height - (y_max - y_min), 1)) - y_min
        place = (x_min + x, y_min + y, x_max + x, y_max + y)
        places.append(place)
        centre, half = (place[0] + place[2], place[1] + place[3]), (place[2] - place[0], place[3] - place[1])
        masks.append(((2 * columns - centre[0]) / half[0]) ** 2 + ((2 * rows - centre[1]) / half[1]) ** 2 <= 1)
    mark(pixels, places, masks, [int(rng.integers(len(COLOURS))) for _ in boxes], kind, sizes)


def _disk(pixels: NDArray[np.uint8], x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
    rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]] + 0.5
    pixels[(columns - x) ** 2 + (rows - y) ** 2 <= radius**2] = colour


def _glow(size: tuple[int, ...], box: Sequence[float]) -> NDArray[np.float32]:
    """How strong the glow is at each pixel: strongest at the centre, a third at the corners of the box."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    x = (2 * columns - box[0] - box[2]) / (box[2] - box[0])
    y = (2 * rows - box[1] - box[3]) / (box[3] - box[1])
    glow: NDArray[np.float32] = 0.7 * np.exp(-(x**2 + y**2) / 2.5)
    return glow


def _blend(pixels: NDArray[np.uint8], strength: NDArray[np.float32], colour: tuple[int, int, int]) -> None:
    mixed = pixels + strength[..., None] * (np.array(colour, np.float32) - pixels)
    pixels[:] = np.clip(mixed, 0, 255).astype(np.uint8)
