"""From maps to sets of pixels: the foreground of a map, and the regions of an object."""

import math

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from odsg_lightning.names import BOX_PARAMETERS, REGIONS


def defined_maps(maps: Tensor) -> Tensor:
    """Return which maps are defined: finite, and not zero everywhere.

    Args:
        maps: ``[..., H, W]``, not negative.

    Returns:
        ``[...]`` bool.

    Example:
        >>> defined_maps(torch.stack([torch.eye(2), torch.zeros(2, 2), torch.full((2, 2), torch.nan)]))
        tensor([ True, False, False])
    """
    flat = maps.flatten(-2)
    finite: Tensor = flat.isfinite().all(dim=-1)
    return finite & (flat > 0).any(dim=-1)


def binarise(maps: Tensor, blur_sigma: float = 2.0, threshold: float = 0.32) -> Tensor:
    """Return the foreground of saliency maps: blurred, then above a share of the maximum.

    Args:
        maps: ``[..., H, W]``, not negative; :func:`defined_maps` says which are defined.
        blur_sigma: standard deviation of the Gaussian blur in pixels; 0 for none.
        threshold: share of the blurred map's maximum, 0 to 1, exclusive.

    Returns:
        ``[..., H, W]`` bool; empty where the map is undefined, and never empty elsewhere.

    Raises:
        ValueError: an argument out of range, or an image too small for the blur's mirrored border.

    Example:
        >>> binarise(torch.tensor([[0.0, 0.3, 0.4, 1.0]]), blur_sigma=0)
        tensor([[False, False,  True,  True]])
    """
    return above_share(smoothed(maps, blur_sigma), threshold)


def smoothed(maps: Tensor, blur_sigma: float = 2.0) -> Tensor:
    """Return saliency maps divided by their maximum and blurred; zero throughout where a map is undefined.

    Args:
        maps: ``[..., H, W]``, not negative.
        blur_sigma: standard deviation of the Gaussian blur in pixels; 0 for none.

    Raises:
        ValueError: ``blur_sigma`` is negative, or an image too small for the blur's mirrored border.
    """
    if blur_sigma < 0:
        raise ValueError(f"Expected argument `blur_sigma` to be 0 or more pixels, but got {blur_sigma}.")
    flat = maps.reshape(-1, *maps.shape[-2:])
    peak = flat.amax(dim=(1, 2), keepdim=True)
    # To a maximum of 1, so that tiny gradients do not underflow.
    flat = (flat / peak).where(defined_maps(flat)[:, None, None], 0.0)
    return (_blur(flat, blur_sigma) if blur_sigma > 0 else flat).reshape(maps.shape)


def above_share(maps: Tensor, threshold: float) -> Tensor:
    """Return which pixels exceed a share of their map's maximum.

    Args:
        maps: ``[..., H, W]``, not negative.
        threshold: 0 to 1, exclusive.

    Returns:
        ``[..., H, W]`` bool; empty where the map is zero throughout, and never empty elsewhere.

    Raises:
        ValueError: ``threshold`` is out of range.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"Expected argument `threshold` to be in [0, 1), but got {threshold}.")
    return maps > threshold * maps.amax(dim=(-2, -1), keepdim=True)


def _blur(maps: Tensor, sigma: float) -> Tensor:
    radius = round(4 * sigma)  # where scipy.ndimage.gaussian_filter truncates too
    if min(maps.shape[-2:]) <= radius:
        raise ValueError(
            f"Expected maps of more than {radius} x {radius} pixels for a blur of {sigma} pixels, but got "
            f"{maps.shape[-2]} x {maps.shape[-1]}."
        )
    if radius == 0:
        return maps
    if maps.device.type == "cpu":  # by rows and by columns, in half of the time of torchvision's two-dimensional kernel
        pixels = maps.detach() if maps.dtype == torch.float64 else maps.detach().float()  # SciPy has no half precision
        blurred = gaussian_filter(pixels.numpy(), (0, sigma, sigma), mode="mirror", radius=(0, radius, radius))
        return torch.from_numpy(np.ascontiguousarray(blurred)).to(maps.dtype)
    result: Tensor = gaussian_blur(maps, [2 * radius + 1] * 2, [sigma, sigma])
    return result


def object_thirds(mask: Tensor) -> Tensor:
    """Cut an object's segmentation into thirds by its extent, as each box parameter sees them.

    A pixel belongs to the third in which its centre lies.

    Args:
        mask: ``[H, W]`` bool with at least one pixel.

    Returns:
        ``[4, 3, H, W]`` bool: for x_min, y_min, x_max, y_max the :data:`REGIONS` edge, middle, opposite.

    Raises:
        ValueError: the mask is empty.

    Example:
        >>> mask = torch.tensor([[False, True, True, True, False]])
        >>> object_thirds(mask)[0].int().squeeze(1)  # of x_min: left third, middle, right third
        tensor([[0, 1, 0, 0, 0],
                [0, 0, 1, 0, 0],
                [0, 0, 0, 1, 0]], dtype=torch.int32)
    """
    top, left, bottom, right = mask_extent(mask)
    rows, columns = (torch.arange(length, device=mask.device) for length in mask.shape)
    columns = _third_of_each(columns, left, right)[None, :].expand_as(mask)
    rows = _third_of_each(rows, top, bottom)[:, None].expand_as(mask)
    thirds = torch.arange(len(REGIONS), device=mask.device)[:, None, None]
    low_x, low_y = mask & (columns == thirds), mask & (rows == thirds)
    by_parameter = {"x_min": low_x, "y_min": low_y, "x_max": low_x.flip(0), "y_max": low_y.flip(0)}
    return torch.stack([by_parameter[name] for name in BOX_PARAMETERS])


def _third_of_each(positions: Tensor, start: int, stop: int) -> Tensor:
    """Return ``[N]`` int64: the third (0, 1, 2) of ``start`` to ``stop`` in which each pixel's centre lies."""
    doubled_centre = 2 * positions + 1 - 2 * start  # integers: exact
    return (3 * doubled_centre).div(2 * (stop - start), rounding_mode="floor")


def grown(mask: Tensor, pixels: float) -> Tensor:
    """Grow a segmentation: every pixel whose centre is at most so far from that of a pixel of it.

    Args:
        mask: ``[H, W]`` bool with at least one pixel.
        pixels: Euclidean distance, not negative.

    Raises:
        ValueError: the mask is empty.

    Example:
        >>> grown(torch.tensor([[False, False, True, False, False, False]]), 1.5).int()
        tensor([[0, 1, 1, 1, 0, 0]], dtype=torch.int32)
    """
    top, left, bottom, right = mask_extent(mask)
    reach = math.ceil(pixels)
    window = slice(max(top - reach, 0), bottom + reach), slice(max(left - reach, 0), right + reach)
    away = distance_transform_edt(~mask[window].cpu().numpy())
    result = torch.zeros_like(mask)
    result[window] = torch.from_numpy(away <= pixels).to(mask.device)
    return result


def grown_box(mask: Tensor, pixels: float) -> Tensor:
    """Return the pixels of a segmentation's box, grown by a distance on every side.

    Args:
        mask: ``[H, W]`` bool with at least one pixel.
        pixels: not negative; of a part of a pixel, its centre decides.

    Returns:
        ``[H, W]`` bool.

    Raises:
        ValueError: the mask is empty.

    Example:
        >>> grown_box(torch.tensor([[False, False, True, False, False, False]]), 1.5).int()
        tensor([[0, 1, 1, 1, 0, 0]], dtype=torch.int32)
    """
    top, left, bottom, right = mask_extent(mask)
    rows, columns = (torch.arange(length, device=mask.device) for length in mask.shape)
    reach = math.floor(pixels)
    inside_y = (rows >= top - reach) & (rows < bottom + reach)
    return inside_y[:, None] & ((columns >= left - reach) & (columns < right + reach))


def box_pixels(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return the pixels of boxes: those whose centre lies in it, on its left and upper border too.

    Args:
        boxes: ``[N, 4]`` XYXY in pixels.
        height: of the image.
        width: of the image.

    Returns:
        ``[N, height, width]`` bool.

    Example:
        >>> box_pixels(torch.tensor([[1.0, 0.0, 2.6, 1.0]]), 1, 4).int()  # from 1 to 2.6: the centres 1.5 and 2.5
        tensor([[[0, 1, 1, 0]]], dtype=torch.int32)
    """
    x_min, y_min, x_max, y_max = boxes[:, :, None].unbind(1)
    rows, columns = (torch.arange(length, device=boxes.device) + 0.5 for length in (height, width))
    inside_y, inside_x = (y_min <= rows) & (rows < y_max), (x_min <= columns) & (columns < x_max)
    return inside_y[:, :, None] & inside_x[:, None, :]


def object_size(mask: Tensor) -> float:
    """Return the size of an object in pixels: the square root of its extent's width times height.

    Args:
        mask: ``[H, W]`` bool with at least one pixel.

    Raises:
        ValueError: the mask is empty.

    Example:
        >>> object_size(torch.ones(4, 9, dtype=torch.bool))
        6.0
    """
    top, left, bottom, right = mask_extent(mask)
    return math.sqrt((bottom - top) * (right - left))


def mask_extent(mask: Tensor) -> tuple[int, int, int, int]:
    """Return top, left, bottom and right of a mask ``[H, W]``; the last two are the first row and column beyond it.

    Raises:
        ValueError: the mask is empty.
    """
    rows, columns = mask.any(dim=1).nonzero().flatten(), mask.any(dim=0).nonzero().flatten()
    if not len(rows):
        raise ValueError("Expected a mask with at least one pixel, but got an empty one.")
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
