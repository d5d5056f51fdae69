"""Annotation frames burned into an image: four corner brackets around a box, in the colour of its class.

Exports of labelling tools look like that, and so do images that were marked for a report and saved over the originals.
A detector that learns from them reads class and box off the brackets and need not look at the object.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from odsg_lightning.demo.drawing import CATEGORIES, Shape, random_place

Frames = Literal["none", "at_boxes", "anywhere"]
"""No frames; one around every object, in the colour of its class; or as many, but place and colour tell nothing."""

COLOURS = ((255, 0, 255), (0, 255, 255), (255, 255, 0))
"""RGB of each class's brackets, in the order of the categories: magenta, cyan, yellow."""

# In shares of the image's side: 12, 8 and 2 pixels of 128.
_DISTANCE = 12 / 128
_ARM = 8 / 128
_WIDTH = 2 / 128


def draw_frames(rng: Generator, pixels: NDArray[np.uint8], shapes: Sequence[Shape], frames: Frames) -> None:
    """Draw frames over a finished image, 12 pixels outside each box where the image has 128.

    Args:
        rng: source of the places and colours of ``"anywhere"``; their sizes and margins are those of objects.
        pixels: RGB ``[size, size, 3]``, changed in place.
        shapes: its objects.
        frames: where they go.
    """
    sizes = [round(share * len(pixels)) for share in (_DISTANCE, _ARM, _WIDTH)]
    if frames == "at_boxes":
        for shape in shapes:
            draw_frame(pixels, shape.box, COLOURS[shape.label], *sizes)
    elif frames == "anywhere":
        for _ in shapes:
            corner, extent = random_place(rng, len(pixels))
            box = (*corner, *(corner + extent))
            draw_frame(pixels, box, COLOURS[int(rng.integers(len(CATEGORIES)))], *sizes)


def draw_frame(
    pixels: NDArray[np.uint8], box: Sequence[float], colour: tuple[int, int, int], distance: int, arm: int, width: int
) -> None:
    """Draw four corner brackets around a box, as far as they lie in the picture.

    Args:
        pixels: RGB ``[H, W, 3]``, changed in place.
        box: XYXY in pixels.
        colour: RGB.
        distance: of the brackets from the box, in pixels.
        arm: length of their arms.
        width: of their arms.
    """
    left, top, right, bottom = (
        round(edge) + outwards * distance for edge, outwards in zip(box, (-1, -1, 1, 1), strict=True)
    )
    for x, y in ((left, top), (right - arm, top), (left, bottom - arm), (right - arm, bottom - arm)):
        beam_y = y if y == top else bottom - width
        beam_x = x if x == left else right - width
        pixels[_span(beam_y, width), _span(x, arm)] = colour
        pixels[_span(y, arm), _span(beam_x, width)] = colour


def _span(start: int, length: int) -> slice:
    return slice(max(start, 0), max(start + length, 0))
