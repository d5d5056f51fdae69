import numpy as np
import pytest
import torch
from helpers.known_detectors import LinearDetector, QuadraticDetector, explain, two_objects

from odsg_lightning import ODSmoothGradCallback
from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.explainer import explainer_of
from odsg_lightning.errors import UserInputError
from odsg_lightning.explainers.smoothgrad import SmoothGrad
from odsg_lightning.saliency.noise import PIXEL_RANGE, image_generator, noisy_images


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


def mixture(n: int) -> np.ndarray:
    """The matrix ``[n, n]`` by which centred noise samples mix independent ones of the same seed."""
    image = torch.zeros(3, 8, 8, dtype=torch.float64)
    drawn = [
        torch.stack(list(noisy_images(image, n, 1 / PIXEL_RANGE, image_generator(0, 1), noise))).flatten(1).numpy()
        for noise in ("independent", "centred")
    ]
    found = np.linalg.lstsq(drawn[0].T, drawn[1].T, rcond=None)[0].T
    np.testing.assert_allclose(found @ drawn[0], drawn[1], atol=1e-12)
    return found


@pytest.mark.parametrize("n", [2, 3, 7, 20])
def test_centred_samples_are_gaussian_each_and_add_up_to_zero(n):
    mixed = mixture(n)
    expected = (np.eye(n) - 1 / n) * n / (n - 1)  # 1 on the diagonal, -1 / (n - 1) beside it
    np.testing.assert_allclose(mixed @ mixed.T, expected, atol=1e-12)
    np.testing.assert_allclose(mixed.sum(axis=0), 0, atol=1e-12)


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 6])
def test_a_mean_over_centred_samples_has_the_same_expectation_and_no_linear_part(degree):
    nodes, weights = np.polynomial.hermite_e.hermegauss(7)  # exact for polynomials of a degree up to 13
    independent = np.stack(np.meshgrid(nodes, nodes, nodes)).reshape(3, -1)
    weight = np.prod(np.meshgrid(weights, weights, weights), axis=0).ravel() / weights.sum() ** 3
    means = {}
    for name, samples in (("independent", independent), ("centred", mixture(3) @ independent)):
        mean = (samples**degree).mean(axis=0)
        means[name] = weight @ mean, weight @ mean**2 - (weight @ mean) ** 2
    moment = {1: 0, 2: 1, 3: 0, 4: 3, 6: 15}[degree]
    assert means["independent"][0] == pytest.approx(moment, abs=1e-9)
    assert means["centred"][0] == pytest.approx(moment, abs=1e-9)
    if degree % 2:
        assert means["centred"][1] < means["independent"][1] * (1e-9 if degree == 1 else 1)


def test_one_centred_sample_is_an_independent_one_and_two_are_antithetic():
    image = torch.full((3, 9, 9), 100.0, dtype=torch.float64)
    (one,) = noisy_images(image, 1, 0.05, image_generator(0, 0), "centred")
    first, second = noisy_images(image, 2, 0.05, image_generator(0, 0), "centred")
    assert torch.equal(one, next(noisy_images(image, 1, 0.05, image_generator(0, 0))))
    assert torch.equal(first, one)
    torch.testing.assert_close(first + second, 2 * image, rtol=1e-14, atol=0)


def test_what_is_drawn_after_centred_samples_is_what_is_drawn_after_independent_ones():
    states = []
    for noise in ("independent", "centred"):
        generator = image_generator(0, 1)
        list(noisy_images(torch.zeros(3, 8, 8), 5, 0.05, generator, noise))
        states.append(generator.get_state())
    assert torch.equal(*states)


def test_maps_that_are_linear_in_the_noise_are_exact_with_centred_samples():
    detector = QuadraticDetector(*two_objects(scale=1e-6))  # its gradient is the weights times (pixel - 128)
    image = torch.full((3, 24, 24), 128.0, dtype=torch.float64)
    image[0] += 100  # so far from 128, and from the other channels, that no noise changes a sign or the largest channel
    known = (detector.weights[:, :, 0] * 100).abs()
    errors = {}
    for noise in ("independent", "centred"):
        found = explain(detector, image=image, n_samples=4, sigma=1e-5, noise=noise)
        errors[noise] = max(float((one.maps / maps - 1).abs().max()) for one, maps in zip(found, known, strict=True))
    assert errors["centred"] < 1e-12
    assert errors["independent"] > 1e-6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise": "sobol"}, r"`noise` to be one of \('independent', 'centred'\), but got 'sobol'"),
        ({"noise": "centred", "tolerance": 0.01}, "no argument `tolerance` with `noise` 'centred', but got 0.01"),
    ],
)
def test_noise_that_cannot_be_drawn_is_refused(settings, message):
    for make in (AuditConfig, SmoothGrad, ODSmoothGradCallback):
        with pytest.raises(UserInputError, match=message):
            make(**settings)
    with pytest.raises(UserInputError, match=message):
        explain(LinearDetector(*two_objects()), **settings)


def test_a_record_says_so_only_if_its_samples_were_centred():
    assert "noise" not in AuditConfig().measured
    assert AuditConfig(noise="centred").measured["noise"] == "centred"
    assert "noise" not in AuditConfig(explainer="odam", noise="centred").measured
    assert explainer_of(AuditConfig(noise="centred")).noise == "centred"
