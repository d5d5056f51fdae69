"""The picture that the benchmarks look at: textured shapes of one size, spread over a smooth, noisy background."""

import math

import torch
import torch.nn.functional as functional
from torch import Tensor

_GAP = 6.0  # pixels between an object and its neighbours or the border
_SIDE_JITTER = 0.08  # sides are the nominal size times 1 - jitter to 1 + jitter


def place_boxes(height: int, width: int, count: int, size: int, generator: torch.Generator) -> Tensor:
    """Spread ``count`` boxes of about ``size`` px over an image, each at a random place of its own share of it.

    Returns:
        ``[count, 4]`` XYXY.

    Raises:
        ValueError: so many boxes of this size do not fit without overlap.
    """
    largest = size * (1 + _SIDE_JITTER) + 2 * _GAP
    rows_fit, columns_fit = int(height // largest), int(width // largest)
    grids = [(rows, math.ceil(count / rows)) for rows in range(1, rows_fit + 1)]
    grids = [(rows, columns) for rows, columns in grids if columns <= columns_fit]
    if not grids:
        raise ValueError(
            f"Expected {count} objects of {size} px to fit an image of {height}x{width}, but at most "
            f"{rows_fit * columns_fit} do. Ask for fewer or smaller objects, or a larger image."
        )
    rows, columns = min(grids, key=lambda grid: abs(math.log((height / grid[0]) / (width / grid[1]))))
    cell_height, cell_width = height / rows, width / columns
    cells = torch.randperm(rows * columns, generator=generator)[:count].sort().values.tolist()
    boxes = []
    for cell in cells:
        box_height, box_width = (size * (1 + _SIDE_JITTER * (2 * torch.rand(2, generator=generator) - 1))).tolist()
        down, right = torch.rand(2, generator=generator).tolist()
        top = (cell // columns) * cell_height + _GAP + down * (cell_height - 2 * _GAP - box_height)
        left = (cell % columns) * cell_width + _GAP + right * (cell_width - 2 * _GAP - box_width)
        boxes.append([left, top, left + box_width, top + box_height])
    return torch.tensor(boxes)


def draw_scene(height: int, width: int, boxes: Tensor, generator: torch.Generator) -> Tensor:
    """Draw rectangles and ellipses, each with a colour and a stripe pattern of its own.

    Returns:
        ``[3, H, W]`` RGB, 0 to 255.
    """
    coarse = torch.rand(1, 3, max(2, height // 32), max(2, width // 32), generator=generator)
    image = functional.interpolate(coarse, size=(height, width), mode="bilinear")[0] * 200 + 28
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    for index, (x_min, y_min, x_max, y_max) in enumerate(boxes.tolist()):
        across = (columns - (x_min + x_max) / 2) / ((x_max - x_min) / 2)
        down = (rows - (y_min + y_max) / 2) / ((y_max - y_min) / 2)
        inside = across**2 + down**2 <= 1 if index % 2 else torch.maximum(across.abs(), down.abs()) <= 1
        angle, stripes = torch.rand(2, generator=generator).tolist()
        wave = torch.sin((2 + 6 * stripes) * (math.cos(math.pi * angle) * across + math.sin(math.pi * angle) * down))
        colour, other = 255 * torch.rand(2, 3, generator=generator)
        pattern = torch.lerp(colour[:, None, None], other[:, None, None], 0.5 + 0.5 * wave)
        image = torch.where(inside, pattern, image)
    return (image + 5 * torch.randn(image.shape, generator=generator)).clamp(0, 255)
