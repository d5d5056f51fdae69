"""From maps to sets of pixels: the foreground of a map, and the regions of an object."""

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from odsg_lightning.names import BOX_PARAMETERS, REGIONS


def binarise(maps: Tensor, blur_sigma: float = 2.0, threshold: float = 0.32) -> Tensor:
    """Return the foreground of saliency maps: blurred, then above a share of the maximum.

    Args:
        maps: ``[..., H, W]``, not negative; a map that is zero everywhere or not finite is undefined.
        blur_sigma: standard deviation of the Gaussian blur in pixels; 0 for none.
        threshold: share of the blurred map's maximum, 0 to 1, exclusive.

    Returns:
        ``[..., H, W]`` bool; empty where the map is undefined, and never empty elsewhere.

    Raises:
        ValueError: an argument out of range, or an image too small for the blur's mirrored border.
    """
    if blur_sigma < 0:
        raise ValueError(f"Expected argument `blur_sigma` to be 0 or more pixels, but got {blur_sigma}.")
    if not 0 <= threshold < 1:
        raise ValueError(f"Expected argument `threshold` to be in [0, 1), but got {threshold}.")
    flat = maps.reshape(-1, *maps.shape[-2:])
    peak = flat.amax(dim=(1, 2), keepdim=True)
    defined = flat.isfinite().all(dim=2).all(dim=1)[:, None, None] & (peak > 0)
    flat = (flat / peak).where(defined, 0.0)  # to a maximum of 1: tiny gradients must not underflow
    if blur_sigma > 0:
        flat = _blur(flat, blur_sigma)
    foreground = flat > threshold * flat.amax(dim=(1, 2), keepdim=True)
    return foreground.reshape(maps.shape)


def _blur(maps: Tensor, sigma: float) -> Tensor:
    radius = round(4 * sigma)  # where scipy.ndimage.gaussian_filter truncates too
    if min(maps.shape[-2:]) <= radius:
        raise ValueError(
            f"Expected maps of more than {radius} x {radius} pixels for a blur of {sigma} pixels, but got "
            f"{maps.shape[-2]} x {maps.shape[-1]}."
        )
    size = [2 * radius + 1] * 2
    return gaussian_blur(maps, size, [sigma, sigma]) if radius > 0 else maps


def object_thirds(mask: Tensor) -> Tensor:
    """Cut an object's segmentation into thirds by its extent, as each box parameter sees them.

    A pixel belongs to the third in which its centre lies.

    Args:
        mask: ``[H, W]`` bool with at least one pixel.

    Returns:
        ``[4, 3, H, W]`` bool: for x_min, y_min, x_max, y_max the :data:`REGIONS` edge, middle, opposite.

    Raises:
        ValueError: the mask is empty.
    """
    if not mask.any():
        raise ValueError("Expected a mask with at least one pixel, but got an empty one.")
    columns = _third_of_each(mask.any(dim=0))[None, :].expand_as(mask)
    rows = _third_of_each(mask.any(dim=1))[:, None].expand_as(mask)
    thirds = torch.arange(len(REGIONS), device=mask.device)[:, None, None]
    low_x, low_y = mask & (columns == thirds), mask & (rows == thirds)
    by_parameter = {"x_min": low_x, "y_min": low_y, "x_max": low_x.flip(0), "y_max": low_y.flip(0)}
    return torch.stack([by_parameter[name] for name in BOX_PARAMETERS])


def _third_of_each(occupied: Tensor) -> Tensor:
    """Return ``[N]`` int64: the third (0, 1, 2) of the occupied extent in which each pixel's centre lies."""
    positions = occupied.nonzero().flatten()
    start, stop = int(positions[0]), int(positions[-1]) + 1
    doubled_centre = 2 * torch.arange(len(occupied), device=occupied.device) + 1 - 2 * start  # integers: exact
    return (3 * doubled_centre).div(2 * (stop - start), rounding_mode="floor")
