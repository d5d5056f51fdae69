import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odsg_lightning.metrics.explanation_accuracy import (
    ACCURACY_NAMES,
    THRESHOLDS,
    VisualExplanationAccuracy,
    visual_explanation_accuracy,
)


def test_golden_values_by_hand():
    # Stretched, the first row is 0, 1/4, 1/2, 1, and the second 0 throughout; the object has the last two of the first
    # row and one below. Above 0.1 and 0.2 are 3 pixels: 2 of 4. Above 0.3 and 0.4: 2 of 3. Above 0.5, which is not
    # above itself, to 0.9: 1 of 3.
    maps = torch.full((1, 5, 2, 4), 2.0, dtype=torch.float64)
    maps[..., 0, :] = torch.tensor([2.0, 3.0, 4.0, 6.0])
    mask = torch.zeros(1, 2, 4, dtype=torch.bool)
    mask[0, 0, 2:] = mask[0, 1, 3] = True
    expected = [1 / 2, 1 / 2, 2 / 3, 2 / 3, *[1 / 3] * 5]
    for values in visual_explanation_accuracy(maps, mask)[0].tolist():
        assert values == pytest.approx([*expected, sum(expected) / 9])


def reference(values, mask):
    low, high = values.min(), values.max()
    rows = []
    for threshold in THRESHOLDS:
        both = either = 0
        for place in np.ndindex(values.shape):
            above = (values[place] - low) / (high - low) > threshold
            both += bool(above and mask[place])
            either += bool(above or mask[place])
        rows.append(both / either)
    return [*rows, sum(rows) / len(rows)]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(2, 14), st.integers(2, 14), st.integers(-9, 4))
def test_equals_brute_force(seed, height, width, magnitude):
    rng = np.random.default_rng(seed)
    maps = (0.3 + rng.random((1, 5, height, width)) ** 3) * 10.0**magnitude
    mask = rng.random((1, height, width)) < 0.4
    mask[0, 0, 0] = True
    found = visual_explanation_accuracy(torch.from_numpy(maps), torch.from_numpy(mask))
    for parameter in range(5):
        assert found[0, parameter].tolist() == pytest.approx(reference(maps[0, parameter], mask[0]), abs=1e-12)


def test_undefined_and_uniform_maps_have_no_value():
    maps = torch.rand(1, 5, 6, 6, generator=torch.Generator().manual_seed(0))
    maps[0, 0], maps[0, 1], maps[0, 2, 0, 0], maps[0, 3] = 0.0, 0.4, torch.inf, torch.nan
    mask = torch.ones(1, 6, 6, dtype=torch.bool)
    found = visual_explanation_accuracy(maps, mask)
    assert found[0].isnan().all(dim=1).tolist() == [True, True, True, True, False]
    metric = VisualExplanationAccuracy()
    metric.update(maps, mask)
    assert metric.compute()["accuracy"].isnan()
    assert torch.equal(metric.compute()["score/accuracy"], found[0, 4, -1])
    assert set(metric.compute()) >= set(ACCURACY_NAMES)


def test_bad_input():
    with pytest.raises(ValueError, match=r"bool tensor \(1, 6, 6\)"):
        visual_explanation_accuracy(torch.ones(1, 5, 6, 6), torch.ones(1, 6, 6))
    with pytest.raises(ValueError, match="an empty one"):
        visual_explanation_accuracy(torch.ones(1, 5, 6, 6), torch.zeros(1, 6, 6, dtype=torch.bool))
    nothing = visual_explanation_accuracy(torch.ones(0, 5, 6, 6), torch.ones(0, 6, 6, dtype=torch.bool))
    assert nothing.shape == (0, 5, len(ACCURACY_NAMES))
