import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from odsg_lightning.metrics.drift import map_drift
from odsg_lightning.metrics.similarity import map_similarity


def five(one):
    return torch.as_tensor(one, dtype=torch.float64).expand(1, 5, -1, -1).clone()


WHOLE = torch.tensor([[0.0, 0.0, 99.0, 99.0]])


def spearman(first, second):
    found = map_similarity(five(first), five(second), WHOLE)[0]
    assert torch.equal(found[:, 0], found[:, 1])  # all of the image is in the box
    return found[:, 0].tolist()


def test_golden_rank_correlation_by_hand():
    # ranks 1 2 3 4 and 1 2 4 3: 1 - 6 * 2 / (4 * 15)
    assert spearman([[1, 2], [3, 4]], [[0.1, 0.5], [9, 8]]) == pytest.approx([0.8] * 5, abs=1e-15)
    # ranks 1.5 1.5 3 4 and 1 2 3.5 3.5, centred -1 -1 .5 1.5 and -1.5 -.5 1 1: 4 / sqrt(4.5 * 4.5)
    assert spearman([[0, 0], [1, 2]], [[0, 1], [5, 5]]) == pytest.approx([4 / 4.5] * 5, abs=1e-15)
    assert spearman([[1, 2], [3, 4]], [[4, 3], [2, 1]]) == pytest.approx([-1] * 5, abs=1e-15)


def test_golden_rank_correlation_in_the_box_by_hand():
    first, second = five([[1, 9, 2], [7, 3, 5]]), five([[5, 0, 1], [6, 2, 3]])
    box = torch.tensor([[1.0, 0.0, 3.0, 2.0]])  # columns 1 and 2: ranks 4 1 2 3 and 1 2 3 4
    assert map_similarity(first, second, box)[0, :, 1].tolist() == pytest.approx([1 - 6 * 12 / 60] * 5, abs=1e-15)


def reference(first, second):
    """Each rank counted: how many are smaller, and half of the equal ones."""
    ranks = []
    for values in (np.abs(first).ravel(), np.abs(second).ravel()):
        ranks.append([sum(o < v for o in values) + sum(o == v for o in values) / 2 for v in values])
    a, b = (np.array(one) - np.mean(one) for one in ranks)
    scale = math.sqrt((a * a).sum() * (b * b).sum())
    return (a * b).sum() / scale if scale else math.nan


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.integers(2, 9), st.booleans())
def test_equals_brute_force_and_scipy(seed, height, width, coarse):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, 5, height, width))  # signed: their magnitudes count
    second += first
    if coarse:  # many ties
        first, second = np.round(first), np.round(second)
    first[:, 0, 0], second[:, 0, 0] = 3, -2
    box = torch.tensor([[0.0, 0.6, width - 1.0, height + 1.0]])  # all rows but the first, all columns but the last
    found = map_similarity(torch.from_numpy(first)[None], torch.from_numpy(second)[None], box)[0]
    for index in range(5):
        expected = reference(first[index], second[index])
        assert float(found[index, 0]) == pytest.approx(expected, abs=1e-12, nan_ok=True)
        in_box = reference(first[index, 1:, :-1], second[index, 1:, :-1])
        assert float(found[index, 1]) == pytest.approx(in_box, abs=1e-12, nan_ok=True)
        if not math.isnan(expected):
            assert expected == pytest.approx(spearmanr(*np.abs([first[index], second[index]]).reshape(2, -1))[0])


def test_structural_similarity_is_that_of_the_drift():
    maps = torch.rand(2, 2, 5, 20, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 4
    drift = map_drift(*maps, *(maps > 0.5))
    torch.testing.assert_close(map_similarity(*maps, WHOLE.expand(2, 4))[..., 2], 1 - drift[..., 1])
    turned = map_similarity(maps[0], -maps[0], WHOLE.expand(2, 4))
    torch.testing.assert_close(turned, torch.ones(2, 5, 3, dtype=torch.float64))


def test_what_has_no_value_is_nan():
    maps = torch.rand(1, 5, 16, 16, generator=torch.Generator().manual_seed(0))
    other = maps.clone()
    maps[0, 0], other[0, 1], other[0, 2] = 0.0, torch.nan, 0.4
    found = map_similarity(maps, other, WHOLE)[0]
    assert found[:, 0].isnan().tolist() == [True, True, True, False, False]
    assert found[:, 2].isnan().tolist() == [True, True, False, False, False]
    assert found[3].tolist() == [1, 1, 1]
    for box in ([20.0, 20, 30, 30], [3.0, 3, 4, 4]):  # no pixel, one pixel
        assert map_similarity(maps, other, torch.tensor([box]))[0, 3, 1].isnan()
    assert map_similarity(maps[:0], maps[:0], WHOLE[:0]).shape == (0, 5, 3)


def test_bad_input():
    maps = torch.ones(1, 5, 8, 8)
    with pytest.raises(ValueError, match=r"float tensor \[N, 5, H, W\]"):
        map_similarity(maps[:, :4], maps[:, :4], WHOLE)
    with pytest.raises(ValueError, match=r"`other` to be a float tensor \(1, 5, 8, 8\) as `maps`"):
        map_similarity(maps, maps[..., 1:], WHOLE)
    with pytest.raises(ValueError, match="x_min < x_max"):
        map_similarity(maps, maps, -WHOLE)
