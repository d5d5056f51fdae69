"""One image of textured shapes, and what is on it.

A class is a shape together with a family of textures, so that there is evidence for it both at the outline and inside.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

Floats = NDArray[np.float32]

CATEGORIES = ("rectangle", "triangle", "star")

# In shares of the image's side. Margin and gap leave room for marks drawn around a box.
_SIDE = (30 / 128, 52 / 128)
_MARGIN = 16 / 128
_GAP = 18 / 128
_SUPERSAMPLING = 4


@dataclass(frozen=True)
class Shape:
    """One object of an image.

    Attributes:
        label: index into :data:`CATEGORIES`.
        polygon: ``[V, 2]`` vertices (x, y) in pixels, in whole hundredths; pixel ``i`` covers ``i`` to ``i + 1``.
    """

    label: int
    polygon: NDArray[np.float64]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The polygon's extent, XYXY in pixels."""
        (x_min, y_min), (x_max, y_max) = self.polygon.min(axis=0), self.polygon.max(axis=0)
        return float(x_min), float(y_min), float(x_max), float(y_max)


def draw_image(rng: Generator, size: int) -> tuple[NDArray[np.uint8], list[Shape]]:
    """Draw one image.

    Args:
        rng: source of every random choice.
        size: height and width in pixels.

    Returns:
        The image, RGB uint8 ``[size, size, 3]``, and its one to three shapes, which do not touch one another.
    """
    image = _background(rng, size)
    shapes: list[Shape] = []
    wanted = int(rng.integers(1, 4))
    for _ in range(60):  # a large shape may leave no room for another: then the image keeps fewer
        if len(shapes) == wanted:
            break
        shape = _random_shape(rng, size)
        if all(_apart(shape.box, other.box, _GAP * size) for other in shapes):
            _paint(rng, image, shape)
            shapes.append(shape)
    image += 6 * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image, 0, 255).astype(np.uint8), shapes


def random_place(rng: Generator, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw place, size and aspect of an object: its upper left corner and its extent, ``[2]`` (x, y) in pixels."""
    side, stretch = size * rng.uniform(*_SIDE), math.exp(rng.uniform(-0.3, 0.3))
    extent = np.array([side * stretch, side / stretch])
    return rng.uniform(_MARGIN * size, (1 - _MARGIN) * size - extent), extent


def _background(rng: Generator, size: int) -> Floats:
    """Soft patches of colour, blurred noise and short strokes, ``[size, size, 3]``."""
    patches = 127 + 0.45 * (rng.uniform(0, 255, (4, 4, 3)) - 127)
    smooth = Image.fromarray(patches.astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    noise = gaussian_filter(rng.standard_normal((size, size, 3), dtype=np.float32), (1.2, 1.2, 0))
    canvas = Image.fromarray(np.clip(np.asarray(smooth) + 40 * noise, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(4, 10))):
        x, y = rng.uniform(0, size, 2)
        angle, length = rng.uniform(0, 2 * math.pi), rng.uniform(5, 22)
        red, green, blue = (int(value) for value in rng.uniform(20, 235, 3))
        end = (x + length * math.cos(angle), y + length * math.sin(angle))
        draw.line([(x, y), end], fill=(red, green, blue), width=int(rng.integers(1, 4)))
    return np.array(canvas, dtype=np.float32)


def _random_shape(rng: Generator, size: int) -> Shape:
    """A shape of random class, size, aspect and place, wholly inside the image."""
    label = int(rng.integers(len(CATEGORIES)))
    corner, extent = random_place(rng, size)
    vertices = _outline(rng, label)
    vertices = (vertices - vertices.min(axis=0)) / np.ptp(vertices, axis=0)
    return Shape(label, np.round(corner + vertices * extent, 2))


def _outline(rng: Generator, label: int) -> NDArray[np.float64]:
    """Vertices ``[V, 2]`` of a class, at any scale."""
    if CATEGORIES[label] == "rectangle":
        return np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    if CATEGORIES[label] == "triangle":
        return np.array([[rng.uniform(-0.6, 0.6), -1.0], [1.0, 1.0], [-1.0, 1.0]])
    points = 2 * int(rng.integers(5, 8))
    angle = np.arange(points) * 2 * math.pi / points + rng.uniform(-0.15, 0.15, points)
    outer = np.arange(points) % 2 == 0
    radius = np.where(outer, rng.uniform(0.85, 1.0, points), rng.uniform(0.4, 0.55, points))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _apart(first: Sequence[float], second: Sequence[float], gap: float) -> bool:
    """Whether two XYXY boxes are at least ``gap`` pixels apart in x or in y."""
    return any(first[i] >= second[i + 2] + gap or second[i] >= first[i + 2] + gap for i in (0, 1))


def _paint(rng: Generator, image: Floats, shape: Shape) -> None:
    """Paint a shape into the image ``[size, size, 3]``, with a slightly soft edge as a photograph has."""
    x_min, y_min, x_max, y_max = shape.box
    left, top = max(int(x_min) - 4, 0), max(int(y_min) - 4, 0)  # the soft edge reaches 4 pixels out
    region = image[top : int(y_max) + 5, left : int(x_max) + 5]
    height, width = region.shape[:2]
    fine = Image.new("L", (width * _SUPERSAMPLING, height * _SUPERSAMPLING))
    # Pillow means the centre of a pixel by its integer coordinates, COCO its corner.
    vertices = (shape.polygon - (left, top)) * _SUPERSAMPLING - 0.5
    ImageDraw.Draw(fine).polygon([(x, y) for x, y in vertices.tolist()], fill=255)
    coverage = np.asarray(fine.reduce(_SUPERSAMPLING), dtype=np.float32) / 255
    alpha = gaussian_filter(coverage, 1.0)[..., None]
    around = region[4:-4, 4:-4].mean(axis=(0, 1))
    colour = np.clip(around + 58 * rng.uniform(0.8, 1.4) * math.sqrt(3) * _direction(rng), 10, 245)
    wave = rng.uniform(22, 40) * _texture(rng, shape.label, height, width)
    region += alpha * (colour + wave[..., None] * _direction(rng) - region)


def _texture(rng: Generator, label: int, height: int, width: int) -> Floats:
    """Stripes for a rectangle, a checkerboard for a triangle, fine noise for a star; ``[height, width]``, about ±1."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle, frequency, phase = rng.uniform(0, math.pi), rng.uniform(0.5, 1.4), rng.uniform(0, 2 * math.pi)
    if CATEGORIES[label] == "rectangle":
        wave = np.sin(frequency * (x * math.cos(angle) + y * math.sin(angle)) + phase)
    elif CATEGORIES[label] == "triangle":
        wave = np.sign(np.sin(frequency * x + phase) * np.sin(frequency * y + phase))
    else:
        wave = 0.7 * rng.standard_normal((height, width))
    return np.asarray(wave, dtype=np.float32)


def _direction(rng: Generator) -> Floats:
    """A random unit vector in RGB."""
    vector = rng.standard_normal(3)
    return (vector / np.linalg.norm(vector)).astype(np.float32)
