import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from odsg_lightning.saliency.masks import binarise, object_thirds

DISC_OF_RADIUS_3 = 29  # pixels at a distance below sqrt(-2 * 2^2 * ln 0.32) = 3.02 px: 1 + 4 * 7


def point(size=40, at=(20, 20)):
    return torch.zeros(size, size, dtype=torch.float64).index_put(
        (torch.tensor(at[0]), torch.tensor(at[1])), torch.tensor(1.0, dtype=torch.float64)
    )


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
