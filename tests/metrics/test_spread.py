import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odsg_lightning.metrics.spread import Compactness, ObjectDiscrimination, compactness, object_discrimination

BOXES = torch.tensor([[0.0, 0, 3, 3], [2, 0, 5, 3], [6, 4, 8, 6]], dtype=torch.float64)
"""The first two share column 2 in rows 0 to 2."""


def maps_with(points, height=6, width=9):
    maps = torch.zeros(1, 5, height, width, dtype=torch.float64)
    for place, value in points.items():
        maps[(0, slice(None), *place)] = value
    return maps


def odi(points, own):
    return object_discrimination(maps_with(points), BOXES, torch.tensor([own]))[0].tolist()


def test_odi_by_hand():
    points = {(0, 0): 4, (1, 3): 1, (4, 7): 2, (5, 0): 50}  # one in each box, and much in none
    assert odi(points, 0) == pytest.approx([3 / 7] * 5)
    assert odi(points, 1) == pytest.approx([6 / 7] * 5)
    assert odi(points, 2) == pytest.approx([5 / 7] * 5)


def test_a_pixel_in_two_boxes_counts_once_and_as_the_others():
    points = {(0, 0): 3, (1, 2): 1}
    assert odi(points, 0) == [1 / 4] * 5
    assert odi(points, 1) == [1.0] * 5
    assert odi(points, 2) == [1.0] * 5


def test_without_another_object_or_mass_on_any_there_is_no_odi():
    alone = object_discrimination(maps_with({(0, 0): 1}), BOXES[:1], torch.tensor([0]))
    assert alone.isnan().all()
    assert all(map(math.isnan, odi({(5, 0): 1}, 0)))  # beside all objects
    assert all(map(math.isnan, odi({}, 0)))


def test_compactness_by_hand():
    box = torch.tensor([[0.0, 0, 6, 8]], dtype=torch.float64)  # half a diagonal is 5
    assert compactness(maps_with({(2, 2): 7}), box)[0].tolist() == [0.0] * 5
    # of 4, 1 lies 5 pixels away, and 1 lies 2: (25 + 4) / 4 / 25
    spread = maps_with({(0, 0): 2, (3, 4): 1, (2, 0): 1})
    assert compactness(spread, box)[0].tolist() == pytest.approx([math.sqrt(29 / 100)] * 5)
    # of equal maxima the first counts, row by row: (0, 5), not (4, 0)
    assert compactness(maps_with({(0, 5): 1, (4, 0): 1}), box)[0].tolist() == pytest.approx([math.sqrt(41 / 50)] * 5)


def reference_odi(values, boxes, own):
    on_others = on_any = 0.0
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            inside = [b[0] <= column + 0.5 < b[2] and b[1] <= row + 0.5 < b[3] for b in boxes]
            on_any += values[row, column] if any(inside) else 0
            on_others += values[row, column] if any(hit for index, hit in enumerate(inside) if index != own) else 0
    return on_others / on_any if on_any and len(boxes) > 1 else math.nan


def reference_compactness(values, box):
    peak, most = (0, 0), values[0, 0]
    for place in np.ndindex(values.shape):
        if values[place] > most:
            peak, most = place, values[place]
    moment = sum(values[r, c] * ((r - peak[0]) ** 2 + (c - peak[1]) ** 2) for r, c in np.ndindex(values.shape))
    return math.sqrt(moment / (values.sum() * ((box[2] - box[0]) ** 2 + (box[3] - box[1]) ** 2) / 4))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(3, 12), st.integers(3, 12), st.integers(1, 4))
def test_equals_brute_force(seed, height, width, objects):
    rng = np.random.default_rng(seed)
    maps = np.floor(rng.random((objects, 5, height, width)) * 4)
    maps[:, :, 1, 1] += 1
    corners = rng.random((objects, 2, 2)) * [width, height]
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1) + 0.1], axis=1)
    tensors = torch.from_numpy(maps), torch.from_numpy(boxes)
    found, spread = object_discrimination(*tensors, torch.arange(objects)), compactness(*tensors)
    for one in range(objects):
        for parameter in range(5):
            values = maps[one, parameter]
            expected = reference_odi(values, boxes, one)
            assert float(found[one, parameter]) == pytest.approx(expected, abs=1e-12, nan_ok=True)
            assert float(spread[one, parameter]) == pytest.approx(reference_compactness(values, boxes[one]), abs=1e-12)


def test_maps_of_several_images_go_into_one_metric():
    first, second = maps_with({(0, 0): 3, (1, 2): 1}), maps_with({(0, 0): 1}, 9, 9)
    metric = ObjectDiscrimination()
    metric.update(first, BOXES, torch.tensor([0]))
    metric.update(second.expand(2, -1, -1, -1), BOXES, torch.tensor([2, 1]))
    metric.update(first, BOXES[:1], torch.tensor([0]))  # undefined
    assert float(metric.compute()["odi"]) == pytest.approx((0.25 + 1 + 1) / 3)
    spread = Compactness()
    spread.update(maps_with({(0, 0): 1, (3, 4): 1}), torch.tensor([[0.0, 0, 6, 8]]))
    spread.update(maps_with({}), torch.tensor([[0.0, 0, 6, 8]]))
    assert float(spread.compute()["score/compactness"]) == pytest.approx(math.sqrt(1 / 2))


def test_bad_input():
    maps = maps_with({(0, 0): 1})
    for own in (torch.tensor([3]), torch.tensor([-1]), torch.tensor([0, 1]), torch.tensor([0.0])):
        with pytest.raises(ValueError, match=r"`own` to be int64 \[1\] with indices of 3 boxes"):
            object_discrimination(maps, BOXES, own)
    with pytest.raises(ValueError, match=r"float tensor \[G, 4\]"):
        object_discrimination(maps, BOXES[0], torch.tensor([0]))
    with pytest.raises(ValueError, match=r"x_min < x_max"):
        object_discrimination(maps, BOXES.flip(1), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"x_min < x_max"):
        compactness(maps, torch.full((1, 4), torch.nan))
    assert object_discrimination(maps[:0], BOXES, torch.zeros(0, dtype=torch.int64)).shape == (0, 5)
    assert compactness(maps[:0], BOXES[:0]).shape == (0, 5)
