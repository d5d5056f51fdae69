from inspect import signature

import numpy as np
import pytest
from scipy.stats import bootstrap

from odsg_lightning.gate.resampling import Resamples, resample_images

TAIL, RESAMPLES = 0.025, 9999


def per_image(images, values, mask=None):
    """Sums and numbers of objects, image by image, as slowly and plainly as it can be done."""
    mask = np.ones(len(values), bool) if mask is None else mask
    sums, counts = [], []
    for image in sorted(set(images)):
        of = (images == image) & mask
        sums.append(values[of].sum())
        counts.append(of.sum())
    return np.array(sums), np.array(counts, dtype=float)


@pytest.fixture(scope="module")
def world():
    generator = np.random.default_rng(5)
    images = np.sort(generator.integers(0, 24, 80))
    image_effect = generator.normal(0, 0.1, 24)
    return images, image_effect[images] + generator.normal(0, 0.1, 80)


def test_interval_is_that_of_scipy(world):
    images, changes = world
    sums, counts = per_image(images, changes)
    ours = resample_images(sums[:, None], counts[:, None], RESAMPLES, 0, TAIL).interval(0)

    def mean(sums, counts, axis):
        return sums.sum(axis) / counts.sum(axis)

    seed = "rng" if "rng" in signature(bootstrap).parameters else "random_state"  # SciPy before 1.15
    settings = {"paired": True, "vectorized": True, "n_resamples": 50_000, "method": "percentile", seed: 1}
    theirs = bootstrap((sums, counts), mean, **settings).confidence_interval
    width = theirs.high - theirs.low
    assert ours == pytest.approx([theirs.low, theirs.high], abs=0.03 * width)


def test_means_are_those_of_a_loop_over_objects(world):
    images, changes = world
    mask = images % 3 != 0  # the other images have no object with a value
    sums, counts = zip(per_image(images, changes), per_image(images, changes, mask), strict=True)
    ours = resample_images(np.stack(sums, 1), np.stack(counts, 1), 50, 7, TAIL)
    present = sorted(set(images))
    drawn = np.random.default_rng(7).integers(0, len(present), size=(50, len(present)))
    brute = np.full((50, 2), np.nan)
    for row, chosen in enumerate(drawn):
        for column, of in enumerate((np.ones(80, bool), mask)):
            values = [c for image in chosen for c in changes[(images == present[image]) & of]]
            brute[row, column] = np.mean(values) if values else np.nan
    np.testing.assert_allclose(ours.means, np.sort(brute, axis=0), atol=1e-12)


def test_chunks_draw_what_one_piece_draws(world, monkeypatch):
    sums, counts = per_image(*world)
    whole = resample_images(sums[:, None], counts[:, None], 999, 3, TAIL).means
    monkeypatch.setattr("odsg_lightning.gate.resampling._DRAWN", 100)
    np.testing.assert_array_equal(resample_images(sums[:, None], counts[:, None], 999, 3, TAIL).means, whole)


def test_bounds_are_the_25th_and_the_975th_of_999_by_hand():
    resamples = Resamples(np.arange(1.0, 1000.0)[:, None], TAIL)
    assert resamples.interval(0) == (25.0, 975.0)


def test_resamples_without_an_object_do_not_count():
    means = np.concatenate([np.arange(1.0, 1000.0), np.full(200, np.nan)])[:, None]
    resamples = Resamples(means, TAIL)
    assert resamples.interval(0) == (25.0, 975.0)
    assert resamples.p_below(0, 1000.5) == 1 / 1000


def test_p_by_hand():
    resamples = Resamples(np.array([-3.0, -2.0, -1.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0])[:, None], 0.2)
    assert resamples.p_below(0, 10.0) == pytest.approx(1 / 10)  # none is not below
    assert resamples.p_below(0, 0.0) == pytest.approx(7 / 10)  # six are not below 0
    assert resamples.p_below(0, -3.0) == 1


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("resamples", [99, 999, 1000, 1234])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.98])
def test_p_and_upper_bound_agree(seed, resamples, confidence):
    generator = np.random.default_rng(seed)
    tail = round((1 - confidence) / 2, 12)
    found = Resamples(np.sort(generator.normal(0, 1, (resamples, 1)), axis=0), tail)
    upper = found.interval(0)[1]
    for threshold in (upper - 1e-6, upper, upper + 1e-6, *generator.normal(0, 2, 20)):
        assert (upper < threshold) == (found.p_below(0, threshold) <= tail)


def test_identical_records_have_a_point_for_an_interval():
    means = resample_images(np.zeros((6, 1)), np.ones((6, 1)), 999, 0, TAIL)
    assert means.interval(0) == (0.0, 0.0)
