"""What is measured of each object's maps, in one file for each picture, from which every table and figure is made."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from arms import ARMS, PRIMARY
from controls import ANOTHER, GAUSSIAN, LINEAR, ROTATED, centre_gaussian, linear_maps, rotated
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion
from torch import Tensor

from odsg_lightning.metrics.edges import enrichment, position
from odsg_lightning.saliency.masks import above_share, mask_extent, object_thirds, smoothed

BLURS = ("2 px", "none", "relative")
"""Standard deviation of the blur: the paper's; none; and 2 px for an object of a diagonal of 200 px, in proportion."""
THRESHOLDS = (0.32, 0.16, 0.48)
GROWTH = (-2, -1, 1, 2)
"""By how many pixels masks are grown (eroded where negative), to see what imperfect masks do."""
NAMES = (*(arm.name for arm in ARMS), ROTATED, GAUSSIAN, ANOTHER, LINEAR)
"""Every kind of maps: the arms, and the controls."""

_RELATIVE = 2 / 200
_PAPER = (BLURS.index("2 px"), THRESHOLDS.index(0.32))


def measured(content: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """Measure the ``K`` detected objects of a picture.

    Args:
        content: of :func:`arms.maps_of_picture`.

    Returns:
        Arrays by name, NaN where undefined, for ``A`` = ``len(NAMES)`` kinds of maps, the four box parameters, and the
        regions edge, middle, opposite and object: ``iof`` ``[K, A, 3, 3, 4, 4]`` by blur and threshold,
        ``enrichment`` ``[K, A, 4, 3]``, ``position`` and ``centre`` ``[K, A, 4]``, ``gini`` and ``halves`` ``[K, A]``;
        of the primary arm ``grown`` ``[K, 4, 4, 4]`` (IOF with grown masks) and ``same_class`` ``[K, 4]`` (IOF with
        another object of the same class, whole); ``area`` ``[K, 4, 3]`` share of the object's pixels in each third;
        ``covered`` ``[K]`` the object's share of the picture; ``size`` ``[K]`` root of its area in pixels;
        ``extent`` ``[K, 2]`` width and height of its box; ``label``.
    """
    masks, labels = torch.from_numpy(content["masks"]), content["labels"]
    rows = [_object(content, masks, labels, row) for row in range(len(content["detected"]))]
    if not rows:
        return {}
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _object(content: dict[str, Any], masks: Tensor, labels: NDArray[Any], row: int) -> dict[str, Any]:
    own = int(content["detected"][row])
    mask = masks[own]
    values: dict[str, list[Any]] = {name: [] for name in ("iof", "enrichment", "position", "centre", "gini", "halves")}
    for name, maps, on in _maps(content, masks, own, row):
        values["iof"].append(_iof(maps, on))
        values["enrichment"].append(enrichment(maps[None], on[None])[0].numpy())
        values["position"].append(position(_inside(maps, on)[None], on[None])[0].numpy())
        values["centre"].append(position(maps[None], on[None])[0].numpy())
        values["gini"].append(_gini(maps))
        halves = content.get(f"halves/{name}")
        values["halves"].append(np.nan if halves is None else halves[row, :4].mean())
    primary = torch.from_numpy(content[f"maps/{PRIMARY}"][row]).float()
    twins = [other for other in range(len(labels)) if other != own and labels[other] == labels[own]]
    thirds = object_thirds(mask).sum(dim=(2, 3)).double()
    top, left, bottom, right = mask_extent(mask)
    return {name: np.array(of_name, dtype=np.float32) for name, of_name in values.items()} | {
        "grown": np.stack([_paper_iof(primary, _grown(mask, pixels)) for pixels in GROWTH]),
        "same_class": _paper_iof(primary, masks[twins[0]])[:, 3] if twins else np.full(4, np.nan, np.float32),
        "area": (thirds / thirds.sum(dim=1, keepdim=True)).float().numpy(),
        "covered": np.float32(mask.float().mean()),
        "size": np.float32(mask.sum()) ** 0.5,
        "extent": np.array([right - left, bottom - top], np.float32),
        "label": labels[own],
    }


def _maps(content: dict[str, Any], masks: Tensor, own: int, row: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield name, maps and the mask that they are measured against, in the order of :data:`NAMES`."""
    mask = masks[own]
    primary = torch.from_numpy(content[f"maps/{PRIMARY}"][row]).float()
    for arm in ARMS:
        maps = content.get(f"maps/{arm.name}")
        yield (
            arm.name,
            torch.full_like(primary, torch.nan) if maps is None else torch.from_numpy(maps[row]).float(),
            mask,
        )
    yield ROTATED, rotated(primary, mask), mask
    yield GAUSSIAN, centre_gaussian(mask), mask
    others = [other for other in content["detected"].tolist() if other != own]
    if others:
        number = content["detected"].tolist().index(others[0])
        yield ANOTHER, torch.from_numpy(content[f"maps/{PRIMARY}"][number]).float(), mask
    else:
        yield ANOTHER, torch.full_like(primary, torch.nan), mask
    yield LINEAR, linear_maps(torch.from_numpy(content["image"]).float(), mask), mask


def _iof(maps: Tensor, mask: Tensor) -> NDArray[np.float32]:
    """Return IOF ``[3, 3, 4, 4]`` for every blur and threshold."""
    top, left, bottom, right = mask_extent(mask)
    diagonal = float(np.hypot(bottom - top, right - left))
    widths = {"2 px": 2.0, "none": 0.0, "relative": _RELATIVE * diagonal}
    window = (..., slice(top, bottom), slice(left, right))
    regions = torch.cat([object_thirds(mask), mask.expand(4, 1, *mask.shape)], dim=1)[window]
    result = torch.empty(len(BLURS), len(THRESHOLDS), 4, 4)
    for number, blur in enumerate(BLURS):
        smooth = smoothed(maps[:4], widths[blur])
        for index, threshold in enumerate(THRESHOLDS):
            foreground = above_share(smooth, threshold)
            inside = (foreground[window][:, None] & regions).sum(dim=(-2, -1), dtype=torch.float32)
            result[number, index] = inside / foreground.sum(dim=(-2, -1), dtype=torch.float32)[:, None]
    return result.numpy()


def _paper_iof(maps: Tensor, mask: Tensor | None) -> NDArray[np.float32]:
    return np.full((4, 4), np.nan, np.float32) if mask is None else _iof(maps, mask)[_PAPER]


def _grown(mask: Tensor, pixels: int) -> Tensor | None:
    change = binary_dilation if pixels > 0 else binary_erosion
    changed = change(mask.numpy(), iterations=abs(pixels))
    return torch.from_numpy(changed) if changed.any() else None


def _inside(maps: Tensor, mask: Tensor) -> Tensor:
    """Return the maps without what lies beyond the object's box, and with that without most of a shift of the whole."""
    top, left, bottom, right = mask_extent(mask)
    cut = torch.zeros_like(maps)
    cut[:, top:bottom, left:right] = maps[:, top:bottom, left:right]
    return cut


def _gini(maps: Tensor) -> float:
    """Return the mean Gini coefficient of the box maps: 0 for the same value everywhere, 1 for a single pixel."""
    values = maps[:4].flatten(1).double().sort(dim=1).values
    count = values.shape[1]
    ranks = 2 * torch.arange(1, count + 1, dtype=torch.float64) - count - 1
    coefficients = (values * ranks).sum(dim=1) / (count * values.sum(dim=1))
    defined = coefficients[coefficients.isfinite()]
    return float(defined.mean()) if len(defined) else float("nan")
