import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odsg_lightning.metrics.edges import ENRICHMENT_NAMES, Enrichment, Position, enrichment, position
from odsg_lightning.names import BOX_PARAMETERS, REGIONS
from odsg_lightning.saliency.masks import binarise, object_thirds


def triangle(size=12):
    """Columns 3 to 8 of growing height: 2, 2, 4, 4, 6, 6 pixels in thirds of 4, 8 and 12."""
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    for column, height in zip(range(3, 9), (2, 2, 4, 4, 6, 6), strict=True):
        mask[0, 3 : 3 + height, column] = True
    return mask


def test_enrichment_by_hand():
    """Of 24 pixels 4, 8 and 12 lie in the thirds by x; the foreground has 2, 1 and 1 there, and 1 beside the object."""
    maps = torch.zeros(1, 5, 12, 12)
    for y, x in ((3, 3), (4, 4), (3, 5), (3, 7), (0, 0)):
        maps[0, :4, y, x] = 1.0
    found = enrichment(maps, triangle(), blur_sigma=0)[0]
    assert found[0].tolist() == pytest.approx([0.5 / (4 / 24), 0.25 / (8 / 24), 0.25 / (12 / 24)])
    assert found[2].tolist() == pytest.approx([0.25 / (12 / 24), 0.25 / (8 / 24), 0.5 / (4 / 24)])


def test_position_by_hand():
    """Columns 3 to 8 are the object's 6: the middles of the first, the last and column 1 lie at 1/12, 11/12, -3/12."""
    maps = torch.zeros(1, 5, 12, 12)
    maps[0, :4, 3, 3], maps[0, :4, 3, 8], maps[0, :4, 3, 1] = 3.0, 1.0, 2.0
    x_min, y_min, x_max, y_max = position(maps, triangle())[0].tolist()
    assert x_min == pytest.approx((3 * 1 / 12 + 11 / 12 - 2 * 3 / 12) / 6)
    assert x_max == pytest.approx(1 - x_min)
    assert (y_min, y_max) == pytest.approx((1 / 12, 11 / 12))


def test_a_shift_of_the_whole_map_shows_beyond_the_object():
    maps = torch.zeros(1, 5, 12, 12)
    maps[..., 3, 4] = 1.0
    before, after = (position(torch.roll(maps, -shift, dims=3), triangle())[0] for shift in (0, 4))
    assert (after - before).tolist() == pytest.approx([-4 / 6, 0, 4 / 6, 0])
    assert after[0] < 0


def test_a_uniform_map_leans_nowhere():
    maps = torch.full((1, 5, 12, 12), 0.3)
    assert enrichment(maps, triangle()).flatten().tolist() == pytest.approx([1.0] * 12)
    assert position(maps, triangle()).flatten().tolist() == pytest.approx([0.5] * 4)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_equals_brute_force(seed):
    rng = np.random.default_rng(seed)
    maps = rng.random((1, 5, 20, 24)) ** 6
    mask = np.zeros((1, 20, 24), dtype=bool)
    top, left = rng.integers(0, 6, 2)
    mask[0, top : top + 9 + rng.integers(5), left : left + 9 + rng.integers(9)] = True
    mask &= rng.random(mask.shape) < 0.9
    tensor, on_object = torch.from_numpy(maps), torch.from_numpy(mask)
    thirds, foreground = object_thirds(on_object[0]).numpy(), binarise(tensor[0]).numpy()
    rows, columns = np.nonzero(mask[0])
    for index, parameter in enumerate(BOX_PARAMETERS):
        hits = [int((foreground[index] & third).sum()) for third in thirds[index]]
        areas = [int(third.sum()) for third in thirds[index]]
        found = enrichment(tensor, on_object)[0, index].tolist()
        expected = [
            hit / sum(hits) / (area / sum(areas)) if sum(hits) else np.nan
            for hit, area in zip(hits, areas, strict=True)
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        along = columns if index % 2 == 0 else rows
        first, length = int(along.min()), int(along.max() - along.min() + 1)
        mean = mass = 0.0
        for y in range(20):
            for x in range(24):
                place = ((x if index % 2 == 0 else y) + 0.5 - first) / length
                mean += maps[0, index, y, x] * (place if parameter.endswith("min") else 1 - place)
                mass += maps[0, index, y, x]
        assert float(position(tensor, on_object)[0, index]) == pytest.approx(mean / mass, rel=1e-5)


@pytest.mark.parametrize("axis", [2, 3])
def test_a_mirror_exchanges_the_edges(axis):
    maps = torch.rand(2, 5, 14, 14, generator=torch.Generator().manual_seed(0)) ** 6
    masks = triangle(14).expand(2, -1, -1)
    order = [2, 1, 0, 3] if axis == 3 else [0, 3, 2, 1]
    mirrored = maps[:, [*order, 4]].flip(axis), masks.flip(axis - 1)
    torch.testing.assert_close(enrichment(*mirrored)[:, order], enrichment(maps, masks))
    torch.testing.assert_close(position(*mirrored)[:, order], position(maps, masks))


def test_what_has_no_value_is_nan():
    maps = torch.zeros(1, 5, 12, 12)
    maps[0, 0] = torch.nan
    maps[0, 2, 0, 0] = 1.0  # beside the object alone: it has a place, but no share of what is on the object
    maps[0, 3, 3, 3] = 1.0
    found, places = enrichment(maps, triangle(), blur_sigma=0)[0], position(maps, triangle())[0]
    assert found.isnan().all(dim=1).tolist() == [True, True, True, False]
    assert places.isnan().tolist() == [True, True, False, False]
    thin = torch.zeros(1, 12, 12, dtype=torch.bool)
    thin[0, 4, 4:6] = True  # two columns have no middle third
    assert enrichment(torch.ones(1, 5, 12, 12), thin)[0, 0].isnan().any()


def test_the_metrics_are_means_of_what_is_defined():
    maps = torch.rand(3, 5, 12, 12, generator=torch.Generator().manual_seed(1)) ** 4
    maps[1, 0] = torch.nan
    masks = triangle().expand(3, -1, -1)
    one, other = Enrichment(), Position()
    for metric in (one, other):
        metric.update(maps[:2], masks[:2])
        metric.update(maps[2:], masks[2:])
    values, places = enrichment(maps, masks), position(maps, masks)
    assert torch.equal(one.per_object().nan_to_num(), values.nan_to_num())
    assert set(one.compute()) == {*ENRICHMENT_NAMES, *REGIONS}
    assert float(one.compute()["x_min/edge"]) == pytest.approx(float(values[[0, 2], 0, 0].mean()))
    assert float(one.compute()["edge"]) == pytest.approx(float(values[:, :, 0].nanmean(dim=1).mean()))
    assert float(other.compute()["y_max"]) == pytest.approx(float(places[:, 3].mean()))
    assert set(other.compute()) == {*BOX_PARAMETERS, "mean"}


@pytest.mark.parametrize("measure", [enrichment, position])
def test_shapes_that_do_not_fit_are_refused(measure):
    with pytest.raises(ValueError, match=r"float tensor \[N, 5, H, W\]"):
        measure(torch.zeros(1, 4, 8, 8), torch.ones(1, 8, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"bool tensor \(1, 8, 8\)"):
        measure(torch.zeros(1, 5, 8, 8), torch.ones(1, 8, 9, dtype=torch.bool))
    with pytest.raises(ValueError, match="an empty one"):
        measure(torch.zeros(1, 5, 9, 9), torch.zeros(1, 9, 9, dtype=torch.bool))
    assert len(measure(torch.zeros(0, 5, 8, 8), torch.zeros(0, 8, 8, dtype=torch.bool))) == 0
