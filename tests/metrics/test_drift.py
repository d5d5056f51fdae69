import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.functional.regression import pearson_corrcoef

from odsg_lightning.metrics.drift import DRIFT_NAMES, MEASURES, SaliencyDrift, map_drift
from odsg_lightning.names import PARAMETERS


def compared(first, second, threshold=0.5):
    """Values of maps [5, H, W] by measure, each [5], with the foreground above half of the maximum."""
    masks = [one > threshold * one.amax((-2, -1), keepdim=True) for one in (first, second)]
    values = map_drift(first[None], second[None], masks[0][None], masks[1][None])[0]
    return dict(zip(MEASURES, values.T, strict=True))


def five(one):
    return torch.as_tensor(one, dtype=torch.float64).expand(5, -1, -1).clone()


def test_golden_pearson_and_mask_iou_by_hand():
    # 2 x 2 maps (1, 0, 0, 1) and (1, 0, 0, 0), means 1/2 and 1/4: covariance sum 1/2, variance sums 1 and 3/4.
    # The foregrounds share one pixel of two.
    found = compared(five([[1, 0], [0, 1]]), five([[1, 0], [0, 0]]))
    assert found["pearson"].tolist() == pytest.approx([1 - 0.5 / math.sqrt(0.75)] * 5, abs=1e-15)
    assert found["mask_iou"].tolist() == [0.5] * 5
    # Of three pixels they share one: an IoU of 1/3, a distance of 2/3.
    found = compared(five([[1, 1], [0, 0]]), five([[1, 0], [1, 0]]))
    assert found["mask_iou"].tolist() == pytest.approx([2 / 3] * 5, abs=1e-15)
    # The opposite map: correlation -1, nothing in common.
    found = compared(five([[1, 0], [0, 1]]), five([[0, 1], [1, 0]]))
    assert found["pearson"].tolist() == pytest.approx([2] * 5, abs=1e-15)
    assert found["mask_iou"].tolist() == [1] * 5


def test_golden_ssim_by_hand():
    # One window, both maps the same everywhere: means 1 and 1 (of their maxima), no variance: SSIM 1, a distance of 0.
    # With one dot at the window's centre, of weight w, against a constant 1: means w and 1, variance w - w^2 and 0,
    # covariance 0.
    constant, dot = torch.ones(11, 11, dtype=torch.float64), torch.zeros(11, 11, dtype=torch.float64)
    dot[5, 5] = 1
    assert compared(five(constant), five(3 * constant))["ssim"].tolist() == [0] * 5
    w = 1 / sum(math.exp(-(x * x + y * y) / 4.5) for x in range(-5, 6) for y in range(-5, 6))
    expected = (2 * w + 1e-4) * 9e-4 / ((w * w + 1 + 1e-4) * (w - w * w + 9e-4))
    assert compared(five(dot), five(constant))["ssim"].tolist() == pytest.approx([1 - expected] * 5, abs=1e-14)


def reference_ssim(first, second):
    """Window by window, in float64."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    first, second = first / first.max(), second / second.max()
    values = []
    for top in range(first.shape[0] - 10):
        for left in range(first.shape[1] - 10):
            a, b = first[top : top + 11, left : left + 11], second[top : top + 11, left : left + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            numerator = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)
            values.append(numerator / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)))
    return np.mean(values)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(11, 24), st.integers(11, 24), st.integers(1, 8))
def test_equals_brute_force(seed, height, width, power):
    rng = np.random.default_rng(seed)
    first = rng.random((5, height, width)) ** power * 10.0 ** rng.integers(-9, 5)
    second = (first / first.max() + rng.random((5, height, width))) ** power
    found = compared(torch.from_numpy(first), torch.from_numpy(second))
    for index in range(5):
        a, b = first[index], second[index]
        mask_a, mask_b = a > 0.5 * a.max(), b > 0.5 * b.max()
        expected = (1 - np.corrcoef(a.ravel(), b.ravel())[0, 1], 1 - reference_ssim(a, b))
        assert (found["pearson"][index], found["ssim"][index]) == pytest.approx(expected, abs=1e-11)
        assert found["mask_iou"][index] == 1 - (mask_a & mask_b).sum() / (mask_a | mask_b).sum()


def random_objects(count, seed, size=25, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(2, count, 5, size, size, generator=generator, dtype=dtype) ** 4
    masks = torch.rand(2, count, 5, size, size, generator=generator) < 0.3
    return *maps, *masks


def test_agrees_with_torchmetrics_and_does_not_depend_on_scale_or_order():
    first, second, mask, other = random_objects(3, 0, dtype=torch.float64)
    values = map_drift(first, second, mask, other)
    expected = pearson_corrcoef(first.flatten(0, 1).flatten(1).T, second.flatten(0, 1).flatten(1).T)
    torch.testing.assert_close(values[..., 0].flatten(), 1 - expected)
    shares = [(one / one.amax((-2, -1), keepdim=True)).flatten(0, 1)[:, None] for one in (first, second)]
    _, everywhere = structural_similarity_index_measure(*shares, data_range=1.0, return_full_image=True)
    inside = everywhere[:, 0, 5:-5, 5:-5].mean((1, 2))  # no mirrored border
    torch.testing.assert_close(values[..., 1].flatten(), 1 - inside)
    torch.testing.assert_close(map_drift(second * 1e-7, first * 3, other, mask), values)


def test_equal_maps_are_exactly_zero_and_single_precision_is_close_to_double():
    first, second, mask, other = random_objects(4, 1)
    assert torch.equal(map_drift(first, first, mask, mask), torch.zeros(4, 5, 3))
    double = map_drift(first.double(), second.double(), mask, other)
    assert double.dtype == torch.float64
    torch.testing.assert_close(map_drift(first, second, mask, other).double(), double, atol=2e-6, rtol=0)
    half = map_drift(first.half(), second.half(), mask, other)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), double, atol=2e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_equal_maps_are_exactly_zero_whatever_their_scale_and_precision(dtype):
    maps, _, mask, _ = random_objects(3, 3)
    for scale in (1e-3, 1.0, 1e3):
        scaled = (maps * scale).to(dtype)
        assert torch.equal(map_drift(scaled, scaled.clone(), mask, mask).double(), torch.zeros(3, 5, 3).double())


def test_it_is_a_distance():
    first, second, mask, other = random_objects(6, 4)
    values = map_drift(first, second, mask, other)
    most = torch.tensor([2.0, 2.0, 1.0])
    assert (values > 0).all()
    assert (values <= most).all()
    torch.testing.assert_close(map_drift(second, first, other, mask), values)  # the same both ways
    assert SaliencyDrift.higher_is_better is False


def test_small_steps_of_single_precision_keep_their_digits():
    # Two maps whose directions differ by an angle of 1e-3: 1 - cos = 5e-7, where 1 - r in single precision has 1.2e-7
    # as its unit.
    first = five([[3, 1], [2, 2]]).float()
    second = five([[3, 1], [2.001, 1.999]]).float()
    assert compared(first, second)["pearson"].tolist() == pytest.approx([5e-7] * 5, rel=1e-3)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("value", [0.0, torch.nan, torch.inf])
def test_undefined_on_either_side_is_nan_and_left_out(side, value):
    objects = random_objects(2, 2)
    expected = map_drift(*objects)
    objects[side][0, 2] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an undefined map is no news
        found = map_drift(*objects)
    assert found[0, 2].isnan().all()
    expected[0, 2] = torch.nan
    assert torch.equal(found.isnan(), expected.isnan())
    metric = SaliencyDrift()
    metric.update(*objects)
    assert metric.compute()["x_max/ssim"] == expected[1, 2, 1]
    assert metric.compute()["ssim"] == pytest.approx((expected[0, [0, 1, 3], 1].mean() + expected[1, :4, 1].mean()) / 2)


def test_what_a_measure_cannot_say():
    flat = compared(torch.ones(5, 12, 12), torch.rand(5, 12, 12))
    assert flat["pearson"].isnan().all()  # no variance
    assert flat["ssim"].isfinite().all()
    small = compared(torch.rand(5, 10, 40), torch.rand(5, 10, 40))
    assert small["ssim"].isnan().all()  # no window lies inside
    assert small["pearson"].isfinite().all()
    maps, nothing = torch.rand(1, 5, 12, 12), torch.zeros(1, 5, 12, 12).bool()
    assert map_drift(maps, maps, nothing, nothing)[..., 2].isnan().all()


def test_class_equals_functional_over_updates_and_merges():
    objects = random_objects(5, 0)
    parts = [[tensor[rows] for tensor in objects] for rows in (slice(0, 2), slice(2, 5))]
    metric, other = SaliencyDrift(), SaliencyDrift()
    for part in parts:
        metric.update(*part)
    expected = map_drift(*objects)
    torch.testing.assert_close(metric.per_object(), expected)
    means = metric.compute()
    assert list(means) == [*DRIFT_NAMES, *MEASURES]
    for index, name in enumerate(DRIFT_NAMES):
        assert means[name] == pytest.approx(expected[:, index // 3, index % 3].mean())
    assert means["mask_iou"] == pytest.approx(expected[:, :4, 2].mean())
    # What two processes would gather: one-dimensional states, one after the other, an empty one among them.
    other.update(*parts[0])
    metric.reset()
    metric.update(*parts[1])
    metric.flat_values.extend(other.flat_values)
    assert torch.equal(metric.per_object().sort(0).values, expected.sort(0).values)
    assert all(state.ndim == 1 for state in other.flat_values)


def test_empty_reset_pickle_and_clone():
    metric = SaliencyDrift()
    metric.update(*random_objects(0, 0))
    assert all(value.isnan() for value in metric.compute().values())
    metric.update(*random_objects(2, 0))
    metric.update(*random_objects(1, 1, size=31))  # images of another size
    for copy in (pickle.loads(pickle.dumps(metric)), metric.clone()):
        assert torch.equal(copy.per_object(), metric.per_object())
    assert metric.per_object().shape == (3, len(PARAMETERS), 3)
    metric.reset()
    assert len(metric.per_object()) == 0


MAPS, MASK = torch.ones(1, 5, 20, 20), torch.ones(1, 5, 20, 20).bool()


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ((MAPS[:, :4], MAPS, MASK, MASK), r"`maps` to be a float tensor \[N, 5, H, W\], but got torch.float32 \(1, 4"),
        ((MAPS.int(), MAPS, MASK, MASK), "but got torch.int32"),
        ((MAPS, MAPS[..., 1:], MASK, MASK), r"`other` to be a float tensor \(1, 5, 20, 20\) as `maps`, but got"),
        ((MAPS, MAPS, MAPS, MASK), "`foreground` to be a bool tensor"),
        ((MAPS, MAPS, MASK, MASK[..., 1:]), r"`other_foreground` to be a bool .* but got torch.bool \(1, 5, 20, 19\)"),
    ],
)
def test_bad_input(objects, message):
    with pytest.raises(ValueError, match=message):
        SaliencyDrift().update(*objects)
