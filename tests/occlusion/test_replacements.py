"""What is put in the place of hidden pixels, against what is known of it."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from odsg_lightning.occlusion.replacements import GREY, REPLACEMENTS, replaced


def picture(height=48, width=64, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(0, 255, (3, height, width))).float()


def hole(height=48, width=64, rows=slice(10, 30), columns=slice(20, 45)):
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[rows, columns] = True
    return mask


@pytest.mark.parametrize("replacement", REPLACEMENTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pixels_outside_the_hole_stay_to_the_bit(replacement, dtype):
    image = picture().to(dtype)
    before = image.clone()
    result = replaced(image, hole(), replacement, other=picture(20, 30, seed=1))
    assert result.dtype == dtype
    assert result.shape == image.shape
    assert torch.equal(result[:, ~hole()], image[:, ~hole()])
    assert not torch.equal(result, image)
    assert torch.equal(image, before)


@pytest.mark.parametrize("replacement", ["inpaint", "grey", "other"])
def test_what_is_hidden_leaves_no_trace(replacement):
    image, other = picture(), picture(seed=1)
    changed = image.where(~hole(), 255 - image)
    first, second = (replaced(i, hole(), replacement, other=other) for i in (image, changed))
    assert torch.equal(first, second)


def test_grey_is_the_middle_of_the_range():
    assert (replaced(picture(), hole(), "grey")[:, hole()] == GREY).all()


@pytest.mark.parametrize("size", [(48, 64), (37, 51), (128, 128)])
def test_inpainting_continues_a_plain_surface(size):
    image = torch.tensor([10.0, 120.0, 240.0])[:, None, None].expand(3, *size).clone()
    mask = hole(*size)
    spoilt = image.where(~mask, 77.0)
    assert replaced(spoilt, mask, "inpaint") == pytest.approx(image, abs=1e-3)


def test_inpainting_stays_between_the_darkest_and_the_brightest_pixel_around():
    image = picture() / 2 + 60
    mask = hole()
    filled = replaced(image.where(~mask, 255.0), mask, "inpaint")[:, mask]
    assert filled.amin() >= image[:, ~mask].amin()
    assert filled.amax() <= image[:, ~mask].amax()


def test_inpainting_takes_each_side_from_that_side():
    image = torch.zeros(3, 64, 64)
    image[:, :, 32:] = 200.0
    mask = hole(64, 64, slice(16, 48), slice(16, 48))
    row = replaced(image, mask, "inpaint")[0, 32]
    assert row[17] < 30
    assert row[46] > 170
    assert (row.diff() > -1e-3).all()  # from dark to bright without a step back


def test_inpainting_has_no_edge_inside_the_hole():
    smooth = torch.from_numpy(gaussian_filter(picture(96, 96).numpy(), (0, 12, 12), mode="reflect"))
    mask = hole(96, 96, slice(30, 70), slice(30, 70))
    filled = replaced(smooth, mask, "inpaint")
    inside = mask & torch.roll(mask, 1, 0) & torch.roll(mask, 1, 1)
    steps = torch.maximum(
        filled.diff(dim=1, prepend=filled[:, :1]).abs(), filled.diff(dim=2, prepend=filled[..., :1]).abs()
    )
    contrast = smooth.amax() - smooth.amin()
    assert steps[:, inside].amax() < 0.1 * contrast


@pytest.mark.parametrize("where", ["left", "corner", "frame"])
def test_inpainting_works_at_the_border_and_around_one_object(where):
    image = picture()
    mask = torch.zeros(48, 64, dtype=torch.bool)
    if where == "left":
        mask[:, :20] = True
    elif where == "corner":
        mask[30:, 40:] = True
    else:
        mask[:] = True
        mask[20:30, 30:40] = False
    filled = replaced(image, mask, "inpaint")
    assert filled.isfinite().all()
    assert torch.equal(filled[:, ~mask], image[:, ~mask])


@pytest.mark.parametrize("sigma", [2.0, 6.0, 15.0])
def test_blur_is_gaussian(sigma):
    image = torch.from_numpy(gaussian_filter(picture(160, 160).numpy(), (0, 6, 6)))
    everything = torch.ones(160, 160, dtype=torch.bool)
    expected = gaussian_filter(image.numpy(), (0, sigma, sigma), mode="mirror")
    inner = slice(50, 110)  # a wide one is computed on a smaller image: borders differ
    got = replaced(image, everything, "blur", sigma=sigma)[:, inner, inner].numpy()
    assert np.abs(got - expected[:, inner, inner]).max() < 0.1 * np.ptp(image.numpy())


def test_other_is_scaled_to_the_image():
    other = torch.arange(4.0).reshape(1, 2, 2).expand(3, 2, 2)
    filled = replaced(picture(4, 4), torch.ones(4, 4, dtype=torch.bool), "other", other=other)
    assert filled[0].round(decimals=2).tolist() == [
        [0.0, 0.25, 0.75, 1.0],
        [0.5, 0.75, 1.25, 1.5],
        [1.5, 1.75, 2.25, 2.5],
        [2.0, 2.25, 2.75, 3.0],
    ]


def test_other_needs_another_image():
    with pytest.raises(ValueError, match="Expected argument `other` to be an image"):
        replaced(picture(), hole(), "other")


def test_nothing_can_be_inpainted_from_nothing():
    with pytest.raises(ValueError, match="the hole covers the whole image"):
        replaced(picture(), torch.ones(48, 64, dtype=torch.bool), "inpaint")
