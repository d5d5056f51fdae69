"""The maps of detectors whose gradient is known, and a brute force beside them, in float64."""

import weakref

import numpy as np
import pytest
import torch
from helpers.known_detectors import IMAGE, LinearDetector, QuadraticDetector, explain, two_objects

from odsg_lightning.saliency.gradients import linearize
from odsg_lightning.saliency.masks import defined_maps
from odsg_lightning.saliency.noise import image_generator
from odsg_lightning.types import Detections


def test_linear_detector_has_its_weights_as_map():
    base, weights, labels = two_objects()
    for index, found in enumerate(explain(LinearDetector(base, weights, labels), n_samples=7)):
        expected = weights[index].abs().amax(1)
        torch.testing.assert_close(found.maps, expected, rtol=1e-12, atol=0)
        assert (found.matched_samples, found.n_samples) == (7, 7)
        assert defined_maps(found.maps).all()


def test_quadratic_detector_equals_brute_force_in_numpy():
    base, weights, labels = two_objects(scale=1e-8)
    detector = QuadraticDetector(base, weights, labels)
    found = explain(detector, n_samples=5)
    noisy = np.stack([image.numpy() for image in detector.seen[1:]])  # the first was the reference
    assert len(noisy) == 5
    gradients = np.abs(weights.numpy()[None] * (noisy[:, None, None] - 128))  # [n, K, 5, 3, H, W]
    expected = gradients.max(axis=3).mean(axis=0)
    for index in range(2):
        np.testing.assert_allclose(found[index].maps.numpy(), expected[index], rtol=1e-12)


def test_plain_gradient_is_the_same_function_without_noise():
    base, weights, labels = two_objects(scale=1e-8)
    (found,) = explain(QuadraticDetector(base, weights, labels), indices=[1], n_samples=1, sigma=0.0)
    torch.testing.assert_close(found.maps, (weights[1] * (IMAGE - 128)).abs().amax(1), rtol=1e-12, atol=0)


class FlickeringDetector(LinearDetector):
    """Finds its first object in every second noise sample only, and triples the weights in the others."""

    def detect(self, images):
        (found,) = super().detect(images)
        if len(self.seen) % 2 == 0:  # 1 is the reference, then samples 2, 3, 4 ...
            return [found]
        (tripled,) = LinearDetector(self.base + 100, 3 * self.weights, self.labels).detect(images)
        return [found if len(self.seen) == 1 else tripled]


def test_mean_is_over_matched_samples_only():
    base, weights, labels = two_objects()
    (found, _) = explain(FlickeringDetector(base, weights, labels), n_samples=5)
    assert found.matched_samples == 3
    torch.testing.assert_close(found.maps, weights[0].abs().amax(1), rtol=1e-12, atol=0)


class SwappingDetector(LinearDetector):
    """Returns its objects in the opposite order in every image but the first."""

    def detect(self, images):
        (found,) = super().detect(images)
        if len(self.seen) == 1:
            return [found]
        return [Detections(found.boxes.flip(0), found.scores.flip(0), found.labels.flip(0))]


def test_objects_are_followed_when_their_order_changes():
    base, weights, labels = two_objects()
    for index, found in enumerate(explain(SwappingDetector(base, weights, labels), n_samples=3)):
        torch.testing.assert_close(found.maps, weights[index].abs().amax(1), rtol=1e-12, atol=0)


class VanishingDetector(LinearDetector):
    def detect(self, images):
        (found,) = super().detect(images)
        return [found if len(self.seen) == 1 else Detections(found.boxes[:0], found.scores[:0], found.labels[:0])]


def test_object_that_is_never_found_again_is_undefined_not_zero():
    for found in explain(VanishingDetector(*two_objects()), n_samples=3):
        assert found.matched_samples == 0
        assert found.maps.isnan().all()
        assert not defined_maps(found.maps).any()


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_zero_or_infinite_gradient_is_undefined_for_that_parameter_alone(bad):
    base, weights, labels = two_objects()

    class OneBadParameter(LinearDetector):
        def linearize(self, image, **_):
            plain = linearize(LinearDetector(base, weights, labels), image)

            class Spoilt:
                detections = plain.detections

                def gradients(self, indices):
                    for gradient in plain.gradients(indices):
                        gradient.values[2] = bad
                        yield gradient

            return Spoilt()

    found = explain(OneBadParameter(base, weights, labels), indices=[0], n_samples=2)[0]
    assert defined_maps(found.maps).tolist() == [True, True, False, True, True]
    assert found.maps[2].isnan().all()


def test_one_graph_at_a_time():
    differentiated, alive = [], []

    class Counts(QuadraticDetector):
        def detect(self, images):
            alive.append(sum(image() is not None for image in differentiated))
            differentiated.extend(weakref.ref(image) for image in images if image.requires_grad)  # the graph holds it
            return super().detect(images)

    explain(Counts(*two_objects(scale=1e-8)), n_samples=3)
    assert len(differentiated) == 3
    assert max(alive) == 0


def test_same_seed_same_bits_and_another_seed_not():
    def run(seed):
        detector = QuadraticDetector(*two_objects(scale=1e-8))
        return explain(detector, indices=[0], generator=image_generator(seed, 1), n_samples=3)[0].maps

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_no_indices_no_work():
    detector = LinearDetector(*two_objects())
    assert explain(detector, indices=[]) == []
    assert len(detector.seen) == 1


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off(mode):
    base, weights, labels = two_objects()
    with mode():
        image = IMAGE.clone()
        maps = explain(LinearDetector(base, weights, labels), image=image, n_samples=2)[0].maps
    torch.testing.assert_close(maps, weights[0].abs().amax(1), rtol=1e-12, atol=0)


def test_detector_without_a_graph_is_refused():
    class Detached(LinearDetector):
        def detect(self, images):
            return [found.detach() for found in super().detect(images)]

    with pytest.raises(ValueError, match=r"the boxes and scores of Detached\.detect\(\) carry no graph"):
        explain(Detached(*two_objects()))


def test_argument_errors():
    detector = LinearDetector(*two_objects())
    with pytest.raises(ValueError, match="Expected argument `n_samples` to be at least 1, but got 0"):
        explain(detector, n_samples=0)
    with pytest.raises(ValueError, match="Expected argument `sigma` to be 0 or more"):
        explain(detector, sigma=-0.1)
