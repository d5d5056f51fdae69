import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odsg_lightning.metrics.deletion import Deletion, Insertion, deletion_area, insertion_area


def curves(*values):
    return torch.tensor(values, dtype=torch.float64)[None]


def test_golden_areas_by_hand():
    one = curves([0.8, 0.8, 0.4, 0.0, 0.0], [1, 1, 1, 1, 1], [0.5, 1.0, 0.0, 0.0, 1.0])
    # quarters: (.8 + .8) / 2 + (.8 + .4) / 2 + (.4 + 0) / 2 + 0 = 1.6, / 4 / .8; and (.75 + .5 + 0 + .5) / 4 / .5
    assert deletion_area(one)[0].tolist() == pytest.approx([0.5, 1.0, 0.875])
    # the last value is the whole image's
    assert insertion_area(one.flip(2))[0].tolist() == pytest.approx([0.5, 1.0, 0.875])
    assert insertion_area(one)[0, 2] == pytest.approx(1.75 / 4 / 1.0)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_equals_brute_force(seed, steps):
    values = np.random.default_rng(seed).random((3, 3, steps + 1)) + 0.01
    deleted, inserted = deletion_area(torch.from_numpy(values)), insertion_area(torch.from_numpy(values))
    for index in np.ndindex(3, 3):
        area = sum((values[index][k] + values[index][k + 1]) / 2 / steps for k in range(steps))
        assert float(deleted[index]) == pytest.approx(area / values[index][0], rel=1e-12)
        assert float(inserted[index]) == pytest.approx(area / values[index][-1], rel=1e-12)


def test_what_is_not_detected_in_the_whole_image_has_no_area():
    one = curves([0.0, 0.5, 0.5], [0.5, 0.5, 0.5], [np.nan] * 3)
    assert deletion_area(one)[0].isnan().tolist() == [True, False, True]
    assert insertion_area(one)[0].isnan().tolist() == [False, False, True]


@pytest.mark.parametrize(("kind", "measure"), [(Deletion, deletion_area), (Insertion, insertion_area)])
def test_the_class_is_the_mean_of_what_is_defined(kind, measure):
    values = torch.rand(4, 3, 11, generator=torch.Generator().manual_seed(0))
    values[1] = torch.nan
    metric = kind()
    metric.update(values[:2])
    metric.update(values[2:])
    expected = measure(values)[[0, 2, 3]].mean(dim=0)
    assert list(metric.compute()) == ["score_iou", "score", "iou"]
    assert [float(value) for value in metric.compute().values()] == pytest.approx(expected.tolist())
    assert kind.higher_is_better == (kind is Insertion)


def test_bad_input():
    for wrong in (torch.zeros(3, 11), torch.zeros(1, 2, 11), torch.zeros(1, 3, 1), torch.zeros(1, 3, 11).long()):
        with pytest.raises(ValueError, match=r"`curves` to be a float tensor \[N, 3, steps \+ 1\]"):
            deletion_area(wrong)
    assert deletion_area(torch.zeros(0, 3, 11)).shape == (0, 3)
