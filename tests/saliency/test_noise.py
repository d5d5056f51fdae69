import pytest
import torch

from odsg_lightning.saliency.noise import image_generator, noisy_images


def draw(seed: int, image_id: int, n: int = 3) -> torch.Tensor:
    return torch.stack(list(noisy_images(torch.full((3, 40, 40), 100.0), n, 0.05, image_generator(seed, image_id))))


def test_same_seed_same_bits():
    assert torch.equal(draw(0, 7), draw(0, 7))


@pytest.mark.parametrize(("seed", "image_id"), [(1, 7), (0, 8), (7, 0), (0, -7)])
def test_another_seed_or_image_has_other_noise(seed, image_id):
    assert not torch.equal(draw(0, 7), draw(seed, image_id))


def test_sigma_is_relative_to_the_pixel_range():
    noise = draw(0, 1, n=20) - 100
    assert noise.std().item() == pytest.approx(0.05 * 255, rel=0.01)
    assert noise.mean().item() == pytest.approx(0, abs=0.1)


def test_no_noise_returns_the_image_itself():
    image = torch.rand(3, 9, 9)
    (copy,) = noisy_images(image, 1, 0.0, image_generator(0, 0))
    assert torch.equal(copy, image)


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    draw(0, 1)
    assert torch.equal(before, torch.get_rng_state())
