import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odsg_lightning.metrics.map_statistics import map_statistics
from odsg_lightning.names import MAP_NAMES
from odsg_lightning.saliency.masks import above_share, smoothed


def test_golden_values_by_hand():
    # two box maps with a value, two without; the object has 4 pixels
    # x_min: 3 of 4 on the object, maximum there, foreground 2 pixels: .5, .75, 1
    # y_min: 1 of 10 on the object, maximum elsewhere, foreground 1 pixel: .25, .1, 0
    maps = torch.zeros(5, 6, 6)
    maps[0, 1, 1], maps[0, 4, 4] = 3.0, 1.0
    maps[1, 1, 1], maps[1, 4, 4] = 1.0, 9.0
    maps[3] = torch.nan
    maps[4, 5, 5] = 1.0  # the score's map counts for nothing
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[:2, :2] = True
    smooth = maps.nan_to_num()
    found = map_statistics(maps, smooth, above_share(smooth, 0.2), mask)
    expected = {"area_ratio": 0.375, "relevance_mass": 0.425, "pointing_game": 0.5}
    assert dict(zip(MAP_NAMES, found.tolist(), strict=True)) == pytest.approx(expected)


def test_without_a_defined_box_map_there_is_no_value():
    maps = torch.zeros(5, 4, 4)
    maps[4, 1, 1] = 1.0
    mask = torch.ones(4, 4, dtype=torch.bool)
    assert map_statistics(maps, maps, maps > 0, mask).isnan().all()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_equals_brute_force(seed):
    rng = np.random.default_rng(seed)
    maps, mask = torch.from_numpy(rng.random((5, 20, 24)) ** 4), torch.from_numpy(rng.random((20, 24)) < 0.3)
    mask[3, 3] = True
    smooth = smoothed(maps)
    foreground = above_share(smooth, 0.32)
    expected = []
    for index in range(4):
        row, column = np.unravel_index(np.argmax(smooth[index].numpy()), mask.shape)
        on = maps[index].numpy()[mask.numpy()].sum() / maps[index].numpy().sum()
        expected.append([foreground[index].sum() / mask.sum(), on, float(mask[row, column])])
    assert map_statistics(maps, smooth, foreground, mask).tolist() == pytest.approx(np.mean(expected, axis=0), abs=1e-6)
