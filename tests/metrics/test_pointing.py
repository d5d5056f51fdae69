import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odsg_lightning.metrics.pointing import EnergyPointingGame, PointingGame, energy_pointing_game, pointing_game

NAN = float("nan")


def corner(height=6, width=8):
    """An L in the box x 1 to 5, y 1 to 4: rows 1 to 3 of column 1, and row 3 of columns 1 to 4."""
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[0, 1:4, 1] = mask[0, 3, 1:5] = True
    return mask, torch.tensor([[1.0, 1.0, 5.0, 4.0]])


def five(*places, height=6, width=8):
    """Five maps, each with the given {(row, column): value}."""
    maps = torch.zeros(1, 5, height, width, dtype=torch.float64)
    for number, points in enumerate(places):
        for place, value in points.items():
            maps[(0, number, *place)] = value
    return maps


def test_pointing_game_by_hand():
    mask, box = corner()
    maps = five(
        {(3, 4): 2, (1, 1): 1},  # on the object's last pixel
        {(1, 4): 2, (3, 1): 1},  # in the box, but not on the object
        {(3, 5): 1, (3, 4): 1},  # the first of two lies on the object, the other beside the box
        {(4, 1): 1, (3, 0): 1, (0, 0): 0.5},  # the first is to the left of the box, the second below it
        {(5, 7): 3},
    )
    expected = [[1, 1, 0], [0, 1, 0], [1, 1, 1], [0, 0, 1], [0, 0, 0]]
    assert pointing_game(maps, mask, box)[0].tolist() == expected


def test_energy_by_hand():
    mask, box = corner()
    maps = five(
        {(3, 4): 2, (1, 1): 1, (0, 0): 1},  # 3 of 4 on the object
        {(1, 4): 2, (3, 1): 1, (5, 5): 1},  # 1 of 4 on the object, 3 of 4 in the box
        {(3, 5): 1},
        {(r, c): 1 for r in range(6) for c in range(8)},  # uniform: 6 of 48 pixels, 12 of 48
        {(3, 1): 1e-30},
    )
    expected = [[0.75, 0.75], [0.25, 0.75], [0, 0], [6 / 48, 12 / 48], [1, 1]]
    assert energy_pointing_game(maps, mask, box)[0].tolist() == expected


def test_a_pixel_is_in_the_box_that_holds_its_centre():
    mask, _ = corner()
    for box, inside in (
        ([1.5, 1, 5, 4], 1),  # the border through the centre of column 1: on the left it counts
        ([1.51, 1, 5, 4], 0),
        ([0, 1, 1.5, 4], 0),  # on the right it does not
        ([0, 1, 1.51, 4], 1),
        ([-20, -20, 99, 1.6], 1),
        ([-20, -20, 99, 1.5], 0),
    ):
        found = pointing_game(five(*[{(1, 1): 1}] * 5), mask, torch.tensor([box], dtype=torch.float64))
        assert found[0, :, 1].tolist() == [inside] * 5, box


def reference(values, mask, box):
    """Pixel by pixel, row by row."""
    best, hits, ties = -1.0, None, 0
    on_mask = on_box = total = 0.0
    for row in range(mask.shape[0]):
        for column in range(mask.shape[1]):
            value, x, y = values[row, column], column + 0.5, row + 0.5
            in_box = box[0] <= x < box[2] and box[1] <= y < box[3]
            total += value
            on_mask += value if mask[row, column] else 0
            on_box += value if in_box else 0
            if value > best:
                best, hits, ties = value, (float(mask[row, column]), float(in_box)), 0
            elif value == best:
                ties += 1
    return [*hits, ties], [on_mask / total, on_box / total]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(3, 14), st.integers(3, 14), st.booleans())
def test_equals_brute_force(seed, height, width, coarse):
    rng = np.random.default_rng(seed)
    maps = rng.random((2, 5, height, width))
    if coarse:  # many ties
        maps = np.floor(maps * 3)
    maps[:, :, 0, 0] += 0.5
    masks = rng.random((2, height, width)) < 0.3
    masks[:, -1, 0] = True
    corners = rng.random((2, 2, 2)) * [width, height]
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1) + 0.1], axis=1)
    arguments = torch.from_numpy(maps), torch.from_numpy(masks), torch.from_numpy(boxes)
    pointing, energy = pointing_game(*arguments), energy_pointing_game(*arguments)
    for number in range(2):
        for parameter in range(5):
            expected = reference(maps[number, parameter], masks[number], boxes[number])
            assert pointing[number, parameter].tolist() == expected[0]
            assert energy[number, parameter].tolist() == pytest.approx(expected[1], abs=1e-12)


def test_undefined_maps_are_nan_and_left_out_of_the_means():
    mask, box = corner()
    maps = five({(1, 1): 1}, {}, {(0, 0): 1}, {(1, 1): 1}, {(1, 1): 1})
    maps[0, 3] = NAN
    maps[0, 4, 0, 0] = float("inf")
    for measure, kind in ((pointing_game, PointingGame), (energy_pointing_game, EnergyPointingGame)):
        assert measure(maps, mask, box)[0].isnan().all(dim=1).tolist() == [False, True, False, True, True]
        metric = kind()
        metric.update(maps, mask, box)
        found = metric.compute()
        assert found["x_min/mask"] == 1
        assert found["y_min/mask"].isnan()
        assert found["mask"] == found["box"] == 0.5  # of x_min and x_max


def test_single_precision_is_close_and_half_precision_becomes_single():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(3, 5, 40, 40, generator=generator, dtype=torch.float64) ** 4
    masks, boxes = torch.rand(3, 40, 40, generator=generator) < 0.4, torch.tensor([[3.0, 4, 30, 20]]).expand(3, 4)
    exact = energy_pointing_game(maps, masks, boxes)
    assert exact.dtype == torch.float64
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float16, 1e-3)):
        found = energy_pointing_game(maps.to(dtype), masks, boxes)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact, atol=tolerance, rtol=0)


@pytest.mark.parametrize("measure", [pointing_game, energy_pointing_game])
def test_bad_input(measure):
    mask, box = corner()
    maps = torch.ones(1, 5, 6, 8)
    with pytest.raises(ValueError, match=r"float tensor \[N, 5, H, W\]"):
        measure(maps[:, :4], mask, box)
    with pytest.raises(ValueError, match=r"`boxes` to be a float tensor \(1, 4\), but got torch.float32 \(2, 4\)"):
        measure(maps, mask, box.repeat(2, 1))
    with pytest.raises(ValueError, match=r"but got torch.int64 \(1, 4\)"):
        measure(maps, mask, box.long())
    with pytest.raises(ValueError, match=r"x_min < x_max and y_min < y_max, but got \[5.0, 1.0, 5.0, 4.0\]"):
        measure(maps, mask, torch.tensor([[5.0, 1.0, 5.0, 4.0]]))
    with pytest.raises(ValueError, match="but got an empty one"):
        measure(maps, torch.zeros_like(mask), box)
    assert len(measure(maps[:0], mask[:0], box[:0])) == 0
