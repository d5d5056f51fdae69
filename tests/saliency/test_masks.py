import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torchvision.transforms.v2.functional import gaussian_blur

from odsg_lightning.saliency import masks
from odsg_lightning.saliency.masks import binarise, defined_maps, object_thirds

DISC_OF_RADIUS_3 = 29  # pixels at a distance below sqrt(-2 * 2^2 * ln 0.32) = 3.02 px: 1 + 4 * 7


def point(size=40, at=(20, 20)):
    return torch.zeros(size, size, dtype=torch.float64).index_put(
        (torch.tensor(at[0]), torch.tensor(at[1])), torch.tensor(1.0, dtype=torch.float64)
    )


class TestDefined:
    @pytest.mark.parametrize(
        ("pixels", "expected"),
        [
            ([0.0, 0.0, 0.0, 0.0], False),
            ([0.0, 1e-38, 0.0, 0.0], True),
            ([2.0, 2.0, 2.0, 2.0], True),  # the same everywhere, but not zero
            ([1.0, torch.nan, 1.0, 1.0], False),
            ([1.0, torch.inf, 1.0, 1.0], False),
            ([0.0, torch.nan, 0.0, 0.0], False),
            ([torch.nan] * 4, False),
        ],
    )
    def test_finite_and_not_zero_everywhere(self, pixels, expected):
        assert defined_maps(torch.tensor(pixels).view(2, 2)).tolist() is expected

    def test_each_map_is_judged_by_itself(self):
        maps = torch.stack([point(), torch.zeros(40, 40), torch.full((40, 40), torch.nan), point(at=(0, 39))])
        assert defined_maps(maps).tolist() == [True, False, False, True]
        assert defined_maps(maps.view(2, 2, 40, 40)).tolist() == [[True, False], [False, True]]

    @pytest.mark.parametrize("shape", [(), (5,), (2, 5), (0, 5)])
    def test_one_answer_for_each_map(self, shape):
        found = defined_maps(torch.ones(*shape, 3, 4))
        assert (found.shape, found.dtype) == (shape, torch.bool)

    def test_no_pixels_are_no_map(self):
        assert not defined_maps(torch.ones(2, 0, 4)).any()

    @given(st.integers(0, 2**32 - 1))
    def test_a_map_has_a_foreground_exactly_where_it_is_defined(self, seed):
        rng = np.random.default_rng(seed)
        maps = torch.from_numpy(
            rng.choice([0.0, 1e-30, 1.0, np.nan, np.inf], (40, 3, 3), p=[0.8, 0.1, 0.06, 0.02, 0.02])
        )
        assert torch.equal(binarise(maps, blur_sigma=0).flatten(1).any(1), defined_maps(maps))


class TestBlur:
    """On a CPU by SciPy, elsewhere by torchvision: the same picture."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("sigma", [0.3, 0.5, 1.0, 2.0, 3.7])
    @pytest.mark.parametrize("size", [(16, 16), (31, 47), (64, 17), (120, 90)])
    def test_equals_torchvision(self, size, sigma, dtype):
        generator = torch.Generator().manual_seed(2)
        pixels = torch.rand(3, *size, generator=generator, dtype=torch.float64).to(dtype) ** 4
        pixels[1] = 0.0
        pixels[1, 0, 0] = pixels[1, -1, size[1] // 2] = 1.0  # at the mirrored border
        found, side = masks._blur(pixels, sigma), 2 * round(4 * sigma) + 1
        expected = gaussian_blur(pixels, [side, side], [sigma, sigma])
        assert found.dtype == expected.dtype == dtype
        assert float((found - expected).abs().max()) <= 1e-6
        assert float((found - pixels).abs().max()) > 0.01  # it does something

    def test_a_cpu_takes_scipy(self, monkeypatch):
        monkeypatch.setattr(masks, "gaussian_blur", None)
        assert binarise(point()).sum() == DISC_OF_RADIUS_3

    def test_a_blur_of_less_than_a_pixel_s_reach_changes_nothing(self):
        maps = torch.rand(2, 9, 9)
        assert torch.equal(masks._blur(maps, 0.1), maps)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_blurred_in_single_precision(self, dtype):
        assert binarise(point().to(dtype)).sum() == DISC_OF_RADIUS_3

    def test_maps_with_a_graph(self):
        assert torch.equal(binarise(point().requires_grad_()), binarise(point()))

    def test_the_maps_are_not_changed(self):
        maps = torch.rand(5, 20, 20)
        before = maps.clone()
        binarise(maps)
        assert torch.equal(maps, before)


class TestBinarise:
    def test_golden_point_becomes_a_disc(self):
        # exp(-r^2 / (2 * 2^2)) > 0.32 for r < 3.02 px
        foreground = binarise(point())
        rows, columns = np.indices((40, 40)) - 20
        assert foreground.sum() == DISC_OF_RADIUS_3
        assert np.array_equal(foreground.numpy(), rows**2 + columns**2 < 3.02**2)

    @pytest.mark.parametrize("scale", [1e-36, 1e-8, 1.0, 1e8])
    def test_scale_does_not_matter(self, scale):
        maps = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0))
        assert torch.equal(binarise(maps), binarise(maps * scale))

    def test_equals_scipy(self):
        maps = torch.rand(6, 31, 47, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 4
        blurred = np.stack([gaussian_filter(m, 2, mode="mirror") for m in maps.numpy()])
        expected = blurred > 0.32 * blurred.max((1, 2), keepdims=True)
        assert np.array_equal(binarise(maps).numpy(), expected)

    def test_threshold_is_exclusive(self):
        maps = torch.tensor([[1.0, 0.5], [0.4, 0.0]])
        assert binarise(maps, blur_sigma=0, threshold=0.5).tolist() == [[True, False], [False, False]]

    @pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
    def test_undefined_map_has_no_foreground(self, value):
        maps = torch.stack([point(), torch.full((40, 40), value, dtype=torch.float64)])
        assert binarise(maps).sum((1, 2)).tolist() == [DISC_OF_RADIUS_3, 0]

    def test_one_bad_pixel_makes_the_map_undefined_and_no_other(self):
        maps = torch.stack([point(), point()])
        maps[1, 3, 3] = torch.nan
        assert binarise(maps).sum((1, 2)).tolist() == [DISC_OF_RADIUS_3, 0]

    @pytest.mark.parametrize("shape", [(40, 40), (5, 40, 40), (2, 5, 40, 40), (0, 5, 40, 40)])
    def test_keeps_the_shape(self, shape):
        assert binarise(torch.ones(shape)).shape == shape

    def test_non_contiguous_input(self):
        maps = torch.rand(30, 20, 4).permute(2, 0, 1)
        assert torch.equal(binarise(maps), binarise(maps.contiguous()))

    def test_argument_errors(self):
        with pytest.raises(ValueError, match=r"Expected argument `threshold` to be in \[0, 1\), but got 1.5"):
            binarise(point(), threshold=1.5)
        with pytest.raises(ValueError, match="Expected argument `blur_sigma` to be 0 or more pixels, but got -1"):
            binarise(point(), blur_sigma=-1)
        with pytest.raises(
            ValueError, match=r"Expected maps of more than 8 x 8 pixels for a blur of 2\.0 pixels, but got 8 x 40"
        ):
            binarise(torch.ones(8, 40))


class TestThirds:
    def test_golden_nine_columns(self):
        mask = torch.zeros(5, 12, dtype=torch.bool)
        mask[1:4, 2:11] = True  # nine columns, three rows
        x_min, y_min, x_max, y_max = object_thirds(mask)
        assert [region.any(0).nonzero().flatten().tolist() for region in x_min] == [[2, 3, 4], [5, 6, 7], [8, 9, 10]]
        assert [region.any(1).nonzero().flatten().tolist() for region in y_min] == [[1], [2], [3]]
        assert torch.equal(x_max, x_min.flip(0))
        assert torch.equal(y_max, y_min.flip(0))

    def test_golden_uneven_extent_goes_by_pixel_centres(self):
        # seven columns: thirds end at 2.33 and 4.67; centres 0.5 ... 6.5
        mask = torch.ones(1, 7, dtype=torch.bool)
        counts = [region.sum().item() for region in object_thirds(mask)[0]]
        assert counts == [2, 3, 2]

    def test_one_pixel_lies_in_the_middle(self):
        mask = torch.zeros(3, 3, dtype=torch.bool)
        mask[1, 1] = True
        assert [region.sum().item() for region in object_thirds(mask)[0]] == [0, 1, 0]

    @given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 20))
    def test_equals_brute_force_and_partitions_the_mask(self, seed, height, width):
        mask = np.random.default_rng(seed).random((height, width)) < 0.3
        mask[seed % height, seed % width] = True
        thirds = object_thirds(torch.from_numpy(mask)).numpy()
        ys, xs = np.nonzero(mask)
        for parameter, values in (("x", xs), ("y", ys)):
            low, high = values.min(), values.max() + 1
            expected = np.zeros((3, height, width), bool)
            for y, x in zip(ys, xs, strict=True):
                share = ((x if parameter == "x" else y) + 0.5 - low) / (high - low)
                expected[0 if share < 1 / 3 - 1e-9 else 1 if share < 2 / 3 - 1e-9 else 2, y, x] = True
            first, second = (0, 2) if parameter == "x" else (1, 3)
            assert np.array_equal(thirds[first], expected)
            assert np.array_equal(thirds[second], expected[::-1])
        assert np.array_equal(thirds.sum(1), np.stack([mask] * 4))

    def test_empty_mask_is_an_error(self):
        with pytest.raises(ValueError, match="Expected a mask with at least one pixel"):
            object_thirds(torch.zeros(4, 4, dtype=torch.bool))
