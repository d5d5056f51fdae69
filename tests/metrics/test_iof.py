import pickle

import numpy as np
import pytest
import torch
from helpers.ports import free_port
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from odsg_lightning.metrics.iof import (
    IntersectionOverForeground,
    intersection_over_foreground,
    object_iof,
    share_in_region,
)
from odsg_lightning.names import IOF_NAMES, PARAMETERS
from odsg_lightning.saliency.masks import above_share, binarise, smoothed


def square_object(size=30):
    """A 9 x 9 object in columns and rows 6 to 14, thirds of three pixels each."""
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[0, 6:15, 6:15] = True
    return mask


def dots(*places, size=30):
    """Five maps, each with ones at the given (row, column) places of its own."""
    maps = torch.zeros(1, 5, size, size)
    for parameter, points in enumerate(places):
        for row, column in points:
            maps[0, parameter, row, column] = 1
    return maps


def by_name(values):
    return dict(zip(IOF_NAMES, values[0].tolist(), strict=True))


def test_golden_values_by_hand():
    # x_min: one dot in the left third, one in the middle, two outside: 1/4, 1/4, 0, 2/4
    # y_min: one dot in the bottom third: 0, 0, 1, 1; x_max: one in the right third: 1, 0, 0, 1
    # y_max: one outside: 0, 0, 0, 0; score: one inside, two outside: 1/3
    maps = dots([(10, 7), (10, 10), (0, 0), (29, 29)], [(13, 10)], [(10, 14)], [(20, 20)], [(10, 10), (1, 1), (2, 2)])
    values = by_name(intersection_over_foreground(maps, square_object(), blur_sigma=0))
    expected = {
        "x_min": (1 / 4, 1 / 4, 0, 2 / 4),
        "y_min": (0, 0, 1, 1),
        "x_max": (1, 0, 0, 1),
        "y_max": (0, 0, 0, 0),
    }
    for parameter, numbers in expected.items():
        found = [values[f"{parameter}/{region}"] for region in ("edge", "middle", "opposite", "object")]
        assert found == pytest.approx(numbers)
    assert values["score/object"] == pytest.approx(1 / 3)


def test_golden_near_by_hand():
    # The object's size is 9, so that it grows by a fifth of it, 1.8 pixels: to columns and rows 5 to 15 at its sides,
    # and at its corners by (1, 1), which is sqrt(2) away, but neither by (2, 0) nor by (2, 1).
    at = {"inside": (10, 10), "side": (10, 5), "corner": (5, 5), "beyond": (10, 4), "beyond the corner": (4, 5)}
    near = {
        name: by_name(intersection_over_foreground(dots(*[[place]] * 5), square_object(), blur_sigma=0))
        for name, place in at.items()
    }
    for parameter in PARAMETERS:
        found = {name: values[f"{parameter}/near"] for name, values in near.items()}
        assert found == {"inside": 1, "side": 1, "corner": 1, "beyond": 0, "beyond the corner": 0}
        assert [values[f"{parameter}/object"] for values in near.values()] == [1, 0, 0, 0, 0]


def test_golden_near_is_of_what_exceeds_half_of_the_maximum():
    maps = dots(*[[(10, 10)]] * 5)
    maps[..., 0, 0], maps[..., 0, 9], maps[..., 0, 29] = 0.5, 0.51, 0.33  # far away: not above a half, above, not above
    values = by_name(intersection_over_foreground(maps, square_object(), blur_sigma=0))
    assert {values[f"{parameter}/near"] for parameter in PARAMETERS} == {1 / 2}
    assert {values[f"{parameter}/object"] for parameter in PARAMETERS} == {1 / 4}
    lower = by_name(intersection_over_foreground(maps, square_object(), blur_sigma=0, near_threshold=0.4))
    assert lower["score/near"] == pytest.approx(1 / 3)
    assert lower["score/object"] == 1 / 4


def test_golden_near_grows_by_a_share_of_the_size_of_an_oblong():
    # 4 by 16 pixels: a size of 8, the square root of its area; half of it is 4 on every side, whichever is longer.
    mask = torch.zeros(1, 30, 30, dtype=torch.bool)
    mask[0, 7:23, 13:17] = True
    places = [[(15, 9)], [(15, 8)], [(3, 15)], [(2, 15)], [(15, 21)]]
    values = by_name(intersection_over_foreground(dots(*places), mask, blur_sigma=0, near_margin=0.5))
    assert [values[f"{parameter}/near"] for parameter in PARAMETERS] == [1, 0, 1, 0, 0]
    none = by_name(intersection_over_foreground(dots(*places), mask, blur_sigma=0, near_margin=0))
    assert [none[f"{parameter}/near"] for parameter in PARAMETERS] == [0] * 5


def test_golden_summaries():
    maps = dots([(10, 7)], [(7, 10)], [(10, 10)], [(0, 0)], [(10, 10)])
    metric = IntersectionOverForeground(blur_sigma=0)
    metric.update(maps, square_object())
    found = metric.compute()
    assert found["object"] == 3 / 4
    assert found["edge"] == 2 / 4
    assert found["middle"] == 1 / 4
    assert found["opposite"] == 0
    assert found["near"] == 3 / 4


def test_undefined_is_nan_and_left_out_of_the_means():
    maps = dots([(10, 7)], [(10, 7)], [(10, 10)], [(0, 0)], [])
    maps[0, 3] = torch.nan
    metric = IntersectionOverForeground(blur_sigma=0)
    metric.update(maps, square_object())
    found = metric.compute()
    for name in ("y_max/object", "y_max/near", "score/object", "score/near"):
        assert found[name].isnan()
    assert found["object"] == found["near"] == 1
    # beside an object whose maps all miss it: the mean of 1 and 0
    metric.update(dots(*[[(0, 0)]] * 5), square_object())
    assert metric.compute()["object"] == 0.5
    assert metric.compute()["y_max/object"] == 0


def test_share_in_region_of_nothing_is_nan():
    nothing = torch.zeros(4, 4, dtype=torch.bool)
    assert share_in_region(nothing, ~nothing).isnan()


def reference_near(core, mask, margin):
    """Pixel by pixel: within a distance of a pixel of the object."""
    ys, xs = np.nonzero(mask)
    reach = margin * np.sqrt((ys.max() + 1 - ys.min()) * (xs.max() + 1 - xs.min()))
    places = list(zip(*np.nonzero(core), strict=True))
    return sum(np.sqrt((ys - y) ** 2 + (xs - x) ** 2).min() <= reach for y, x in places) / len(places)


def reference_iof(saliency, mask, sigma=2.0, threshold=0.32, near_threshold=0.5, near_margin=0.2):
    """NumPy and SciPy, loop by loop."""
    rows = {}
    ys, xs = np.nonzero(mask)
    for parameter, values in zip(PARAMETERS, saliency, strict=True):
        blurred = gaussian_filter(values, sigma, mode="mirror")
        foreground = blurred > threshold * blurred.max()
        total = foreground.sum()
        rows[f"{parameter}/object"] = sum(foreground[y, x] for y, x in zip(ys, xs, strict=True)) / total
        rows[f"{parameter}/near"] = reference_near(blurred > near_threshold * blurred.max(), mask, near_margin)
        if parameter == "score":
            continue
        positions = xs if parameter.startswith("x") else ys
        low, length = positions.min(), positions.max() + 1 - positions.min()
        counts = [0, 0, 0]
        for y, x, position in zip(ys, xs, positions, strict=True):
            third = min(int((position + 0.5 - low) / length * 3 + 1e-9), 2)
            counts[third] += foreground[y, x]
        if parameter.endswith("max"):
            counts.reverse()
        for region, count in zip(("edge", "middle", "opposite"), counts, strict=True):
            rows[f"{parameter}/{region}"] = count / total
    return [rows[name] for name in IOF_NAMES]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(12, 40), st.integers(12, 40))
def test_equals_brute_force(seed, height, width):
    rng = np.random.default_rng(seed)
    saliency, mask = rng.random((5, height, width)) ** 6, rng.random((height, width)) < 0.2
    mask[seed % height, seed % width] = True
    tensors = torch.from_numpy(saliency)[None], torch.from_numpy(mask)[None]
    found = intersection_over_foreground(*tensors)
    np.testing.assert_allclose(found[0].numpy(), reference_iof(saliency, mask), rtol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0, 0.9), st.floats(0, 2))
def test_near_of_one_object_equals_brute_force(seed, near_threshold, near_margin):
    rng = np.random.default_rng(seed)
    saliency, mask = rng.random((5, 30, 25)) ** 6, np.zeros((30, 25), dtype=bool)
    top, left, height, width = rng.integers((0, 0, 1, 1), (20, 15, 11, 11))
    mask[top : top + height, left : left + width] = True
    options = {"near_threshold": near_threshold, "near_margin": near_margin}
    found = intersection_over_foreground(torch.from_numpy(saliency)[None], torch.from_numpy(mask)[None], **options)
    np.testing.assert_allclose(found[0].numpy(), reference_iof(saliency, mask, **options), rtol=1e-6)


def random_objects(count, seed, size=25):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(count, 5, size, size, generator=generator) ** 4
    masks = torch.rand(count, size, size, generator=generator) < 0.3
    return maps, masks


def test_an_object_whose_maps_are_binarised_already_has_the_same_values():
    maps, masks = random_objects(4, 7)
    maps[1, 2], maps[2, 4], maps[3] = 0.0, torch.nan, torch.inf  # undefined maps
    for options in ({}, {"blur_sigma": 0.0, "threshold": 0.6, "near_threshold": 0.7, "near_margin": 0.1}):
        blur_sigma, near_threshold = options.get("blur_sigma", 2.0), options.get("near_threshold", 0.5)
        expected = intersection_over_foreground(maps, masks, **options)
        assert expected.isnan().any()
        for one, mask, values in zip(maps, masks, expected, strict=True):
            core = above_share(smoothed(one, blur_sigma), near_threshold)
            foreground = binarise(one, blur_sigma, options.get("threshold", 0.32))
            found = object_iof(foreground, core, mask, options.get("near_margin", 0.2))
            assert (found.shape, found.dtype) == ((len(IOF_NAMES),), torch.float32)
            assert torch.equal(found.nan_to_num(-1), values.nan_to_num(-1))


def test_golden_object_by_hand():
    # The foreground of x_min: two pixels in the left third, one in the middle, one outside; the other maps have none.
    foreground = torch.zeros(5, 30, 30, dtype=torch.bool)
    for row, column in ((6, 6), (14, 8), (10, 10), (0, 0)):
        foreground[0, row, column] = True
    core = torch.zeros_like(foreground)
    core[4, 5, 5] = core[4, 0, 0] = True  # of the score: one pixel beside the object, one far away
    found = by_name(object_iof(foreground, core, square_object()[0], 0.2)[None])
    assert found.pop("score/near") == 1 / 2
    shares = [found.pop(f"x_min/{region}") for region in ("edge", "middle", "opposite", "object")]
    assert shares == [2 / 4, 1 / 4, 0, 3 / 4]
    assert all(np.isnan(value) for value in found.values())


def test_an_object_without_a_pixel_has_no_values():
    with pytest.raises(ValueError, match="at least one pixel"):
        object_iof(*torch.ones(2, 5, 8, 8, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.bool), 0.2)


def test_maps_of_half_precision_and_with_a_graph_are_measured_too():
    maps, masks = random_objects(2, 1)
    expected = intersection_over_foreground(maps, masks)
    assert torch.equal(intersection_over_foreground(maps.requires_grad_(), masks), expected)
    for dtype in (torch.float16, torch.bfloat16):
        rounded = intersection_over_foreground(maps.detach().to(dtype), masks)
        torch.testing.assert_close(rounded, expected, atol=0.02, rtol=0)


def test_class_equals_functional_over_several_updates():
    maps, masks = random_objects(5, 0)
    metric = IntersectionOverForeground()
    metric.update(maps[:2], masks[:2])
    metric.update(maps[2:], masks[2:])
    expected = intersection_over_foreground(maps, masks)
    assert torch.equal(metric.per_object(), expected)
    for index, name in enumerate(IOF_NAMES):
        torch.testing.assert_close(metric.compute()[name], expected[:, index].mean())


def test_the_class_measures_with_its_settings():
    maps, masks = random_objects(3, 2)
    options = {"blur_sigma": 1.0, "threshold": 0.6, "near_threshold": 0.7, "near_margin": 0.1}
    metric = IntersectionOverForeground(**options)
    metric.update(maps, masks)
    expected = intersection_over_foreground(maps, masks, **options)
    assert torch.equal(metric.per_object(), expected)
    for name, value in options.items():
        assert not torch.equal(intersection_over_foreground(maps, masks, **(options | {name: value / 2})), expected)


def test_images_of_different_size_go_into_one_metric():
    metric = IntersectionOverForeground()
    metric.update(*random_objects(1, 0, size=25))
    metric.update(*random_objects(2, 1, size=31))
    assert metric.per_object().shape == (3, len(IOF_NAMES))


def test_values_that_are_known_count_as_maps_do():
    generator = torch.Generator().manual_seed(0)
    maps, masks = torch.rand(4, 5, 30, 30, generator=generator), torch.zeros(4, 30, 30, dtype=torch.bool)
    masks[:, 5:20, 8:25] = True
    by_maps, by_values = IntersectionOverForeground(), IntersectionOverForeground()
    by_maps.update(maps, masks)
    by_values.update(values=intersection_over_foreground(maps, masks))
    assert by_maps.compute() == by_values.compute()
    with pytest.raises(ValueError, match=r"`values` to be \[N, 22\], but got \(4, 5\)"):
        by_values.update(values=torch.zeros(4, 5))
    with pytest.raises(ValueError, match="but got neither"):
        by_values.update(maps)


def test_empty_metric_is_nan_everywhere():
    metric = IntersectionOverForeground()
    metric.update(torch.zeros(0, 5, 20, 20), torch.zeros(0, 20, 20, dtype=torch.bool))
    assert all(value.isnan() for value in metric.compute().values())
    assert metric.per_object().shape == (0, len(IOF_NAMES))


def test_reset_pickle_and_clone():
    metric = IntersectionOverForeground()
    metric.update(*random_objects(2, 0))
    for copy in (pickle.loads(pickle.dumps(metric)), metric.clone()):
        assert torch.equal(copy.per_object(), metric.per_object())
    metric.reset()
    assert len(metric.per_object()) == 0


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        (
            torch.ones(1, 4, 20, 20),
            torch.ones(1, 20, 20).bool(),
            r"`maps` to be a float tensor \[N, 5, H, W\], but got torch.float32 \(1, 4",
        ),
        (torch.ones(1, 5, 20, 20).int(), torch.ones(1, 20, 20).bool(), "but got torch.int32"),
        (torch.ones(1, 5, 20, 20), torch.ones(1, 20, 20), "`masks` to be a bool tensor"),
        (
            torch.ones(1, 5, 20, 20),
            torch.ones(2, 20, 20).bool(),
            r"`masks` to be a bool tensor \(1, 20, 20\), but got torch.bool \(2,",
        ),
        (torch.ones(1, 5, 20, 20), torch.zeros(1, 20, 20).bool(), "at least one pixel"),
    ],
)
def test_bad_input(maps, masks, message):
    with pytest.raises(ValueError, match=message):
        IntersectionOverForeground().update(maps, masks)


SHARES = (((0, 1, 2, 3), (4,)), ((0, 1, 2, 3, 4), ()), ((), (3,)), ((), ()))


def _compute_shares(rank, port, queue):
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    maps, masks = random_objects(5, 0)
    results = []
    for shares in SHARES:
        metric = IntersectionOverForeground()
        for index in shares[rank]:
            metric.update(maps[index : index + 1], masks[index : index + 1])
        results.append({name: value.item() for name, value in metric.compute().items()})
    queue.put(results)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_with_uneven_shares():
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    port = free_port()
    processes = [context.Process(target=_compute_shares, args=(rank, port, queue)) for rank in range(2)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=600) for _ in processes]
    for process in processes:
        process.join(600)
    maps, masks = random_objects(5, 0)
    for case, shares in enumerate(SHARES):
        indices = [index for share in shares for index in share]
        alone = IntersectionOverForeground()
        alone.update(maps[indices], masks[indices])
        expected = {name: value.item() for name, value in alone.compute().items()}
        for result in results:
            assert result[case] == pytest.approx(expected, nan_ok=True)
