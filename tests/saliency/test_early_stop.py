"""When the noise samples of an object end before `n_samples`: by hand, and against a brute force in NumPy."""

import numpy as np
import pytest
import torch
from helpers.known_detectors import IMAGE, LinearDetector, QuadraticDetector, explain, two_objects

from odsg_lightning.errors import UserInputError
from odsg_lightning.saliency.early_stop import has_settled
from odsg_lightning.saliency.noise import image_generator, noisy_images
from odsg_lightning.types import Detections, LocalGradient


def brute_force(samples, tolerance, n_samples):
    """Maps and number of samples of one object from its maps in each sample, [n, 5, H, W], None where it was lost."""
    kept = []
    for number, found in enumerate(samples[:n_samples], start=1):
        if found is None:
            continue
        kept.append(found)
        if len(kept) < 3:
            continue
        before, after = np.mean(kept[:-1], axis=0), np.mean(kept, axis=0)
        moved = [1 - np.corrcoef(b.ravel(), a.ravel())[0, 1] for b, a in zip(before, after, strict=True) if a.any()]
        if moved and max(moved) <= tolerance:
            return after, number
    return np.mean(kept, axis=0), n_samples


class TestRule:
    """Maps of two by two pixels, whose correlation is known."""

    def maps(self, *rows):
        """Five maps: those given, then the last one again."""
        return torch.tensor([*rows, *[rows[-1]] * (5 - len(rows))], dtype=torch.float64).reshape(5, 2, 2)

    def test_threshold_is_the_correlation(self):
        # [0 0 1 1] and [0 1 1 1] correlate with 1 / sqrt(3): 1 - 0.57735 = 0.42265
        before, after = self.maps([0, 0, 1, 1]), self.maps([0, 1, 1, 1])
        assert has_settled(before, after, 0.4227)
        assert not has_settled(before, after, 0.4226)

    def test_neither_scale_nor_offset_counts(self):
        assert has_settled(self.maps([0, 1, 2, 3]), self.maps([5, 7, 9, 11]), 1e-12)

    def test_small_steps_of_single_precision_keep_their_digits(self):
        # Two unit vectors at an angle of 1e-3: 1 - cos = 5e-7, where 1 - r in single precision has 1.2e-7 as its unit.
        before, after = self.maps([1, -1, 0, 0]).float(), self.maps([1, -1, 1e-3, -1e-3]).float()
        assert has_settled(before, after, 5.02e-7)
        assert not has_settled(before, after, 4.98e-7)

    @pytest.mark.parametrize("worst", range(5))
    def test_every_map_must_have_settled(self, worst):
        before = self.maps([0, 0, 1, 1])
        after = before.clone()
        after[worst] = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
        assert not has_settled(before, after, 0.01)

    def test_a_map_that_is_zero_all_along_does_not_count(self):
        maps = self.maps([0, 0, 0, 0], [0, 0, 1, 1])
        assert has_settled(maps, maps, 0.01)

    def test_five_zero_maps_have_not_settled(self):
        zero = self.maps([0, 0, 0, 0])
        assert not has_settled(zero, zero, 0.99)

    def test_a_map_that_just_ceased_to_be_zero_has_not_settled(self):
        assert not has_settled(self.maps([0, 0, 0, 0], [0, 0, 1, 1]), self.maps([0, 0, 1, 1]), 0.99)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_a_map_that_no_sample_can_mend_does_not_count(self, bad):
        maps = self.maps([bad, 0, 0, 1], [0, 0, 1, 1])
        assert has_settled(maps, maps, 0.01)
        assert has_settled(self.maps([bad, 0, 0, 1]), self.maps([bad, 0, 0, 1]), 0.01)

    def test_a_constant_map_has_no_correlation(self):
        maps = self.maps([2, 2, 2, 2], [0, 0, 1, 1])
        assert not has_settled(maps, maps, 0.99)


def test_identical_samples_stop_as_soon_as_allowed():
    base, weights, labels = two_objects()
    detector = LinearDetector(base, weights, labels)
    for index, found in enumerate(explain(detector, n_samples=50, tolerance=1e-6)):
        assert (found.matched_samples, found.n_samples) == (3, 3)
        torch.testing.assert_close(found.maps, weights[index].abs().amax(1), rtol=1e-12, atol=0)
    assert len(detector.seen) == 4  # the clean image and three samples, not fifty


class FlickeringDetector(LinearDetector):
    """Loses its first object in every second noise sample, and finds the other one always."""

    def detect(self, images):
        (found,) = super().detect(images)
        lost = len(self.seen) > 1 and len(self.seen) % 2 == 1  # 1 is the reference; found in samples 1, 3, 5 ...
        return [Detections(found.boxes[1:], found.scores[1:], found.labels[1:]) if lost else found]


def test_only_matched_samples_count_towards_the_three():
    flickering, steady = explain(FlickeringDetector(*two_objects()), n_samples=50, tolerance=1e-6)
    assert (flickering.matched_samples, flickering.n_samples) == (3, 5)  # samples 1, 3, 5
    assert (steady.matched_samples, steady.n_samples) == (3, 3)


def test_an_object_says_whether_it_was_stopped_even_by_the_last_sample():
    def stopped(n_samples):
        return [one.stopped for one in explain(FlickeringDetector(*two_objects()), n_samples=n_samples, tolerance=1e-6)]

    assert [stopped(n) for n in (2, 3, 4, 5)] == [[False, False], [False, True], [False, True], [True, True]]
    assert not any(one.stopped for one in explain(LinearDetector(*two_objects()), n_samples=5))  # no tolerance


class CountingDetector(QuadraticDetector):
    """Remembers which of its objects were differentiated in each sample."""

    def __init__(self, *known):
        super().__init__(*known)
        self.differentiated = []

    def linearize(self, image, **_):
        (found,) = self.detect([image])
        slopes = (self.weights * (image - 128)).detach()
        counting = self

        class Known:
            detections = found.detach()

            def gradients(self, indices):
                counting.differentiated.append(list(indices))
                return (LocalGradient(slopes[index]) for index in counting.differentiated[-1])

        return Known()


def uneven_objects():
    """Two objects, of which the second one's maps settle later: all weights alike, they show the noise."""
    base, weights, labels = two_objects(scale=1e-8)
    weights[1] = 1e-8
    return base, weights, labels


# The gradient is weights * (pixel - 128): near 128 the noise is most of it, and it changes much from sample to sample.
NEARLY_GREY = 128 + (IMAGE - 128) / 20
TOLERANCES = [0.1, 0.03, 0.01, 0.003, 0.001]


@pytest.mark.parametrize("tolerance", TOLERANCES)
def test_equals_brute_force_in_numpy(tolerance):
    base, weights, labels = uneven_objects()
    detector = CountingDetector(base, weights, labels)
    found = explain(detector, image=NEARLY_GREY, n_samples=30, tolerance=tolerance)
    noisy = np.stack([image.numpy() for image in noisy_images(NEARLY_GREY, 30, 0.05, image_generator(0, 1))])
    samples = np.abs(weights.numpy()[None] * (noisy[:, None, None] - 128)).max(axis=3)  # [n, K, 5, H, W]
    used = []
    for index in range(2):
        maps, number = brute_force(samples[:, index], tolerance, 30)
        used.append(number)
        assert (found[index].matched_samples, found[index].n_samples) == (number, number)
        np.testing.assert_allclose(found[index].maps.numpy(), maps, rtol=1e-12)
    expected = [[index for index in range(2) if number < used[index]] for number in range(max(used))]
    assert detector.differentiated == expected  # what has settled is not differentiated again
    assert len(detector.seen) == 1 + max(used)


def test_the_tolerances_above_stop_the_two_objects_apart():
    def used(tolerance):
        found = explain(CountingDetector(*uneven_objects()), image=NEARLY_GREY, n_samples=30, tolerance=tolerance)
        return tuple(one.n_samples for one in found)

    pairs = [used(tolerance) for tolerance in TOLERANCES]
    assert len({first for first, _ in pairs}) >= 3
    assert any(first < second < 30 for first, second in pairs)


def test_an_object_has_the_same_maps_and_samples_whoever_has_stopped():
    settings = {"image": NEARLY_GREY, "n_samples": 30, "tolerance": 0.01}
    together = explain(CountingDetector(*uneven_objects()), **settings)
    assert together[0].n_samples != together[1].n_samples
    for index in range(2):
        (alone,) = explain(CountingDetector(*uneven_objects()), indices=[index], **settings)
        assert torch.equal(alone.maps, together[index].maps)
        assert alone.n_samples == together[index].n_samples


def test_stopped_maps_are_those_of_so_many_samples_without_tolerance():
    (stopped,) = explain(CountingDetector(*uneven_objects()), [0], NEARLY_GREY, n_samples=30, tolerance=0.01)
    (fixed,) = explain(CountingDetector(*uneven_objects()), [0], NEARLY_GREY, n_samples=stopped.n_samples)
    assert 3 < stopped.n_samples < 30
    assert torch.equal(stopped.maps, fixed.maps)


def test_a_tolerance_that_is_never_met_changes_no_bit():
    without = explain(CountingDetector(*uneven_objects()), image=NEARLY_GREY, n_samples=6)
    never = explain(CountingDetector(*uneven_objects()), image=NEARLY_GREY, n_samples=6, tolerance=1e-12)
    for one, other in zip(without, never, strict=True):
        assert torch.equal(one.maps, other.maps)
        assert (one.matched_samples, one.n_samples) == (other.matched_samples, other.n_samples) == (6, 6)


@pytest.mark.parametrize("tolerance", [None, 1e-6])
def test_every_sample_is_announced_and_drawn_whether_it_is_used_or_not(tolerance):
    calls, generator = [], image_generator(0, 1)
    explain(
        LinearDetector(*two_objects()),
        n_samples=9,
        tolerance=tolerance,
        generator=generator,
        on_sample=lambda: calls.append(1),
    )
    assert len(calls) == 9
    untouched = image_generator(0, 1)
    list(noisy_images(IMAGE, 9, 0.05, untouched))
    assert torch.equal(generator.get_state(), untouched.get_state())


def test_an_object_that_is_never_found_again_uses_all_samples():
    class Vanishing(LinearDetector):
        def detect(self, images):
            (found,) = super().detect(images)
            first = len(self.seen) == 1
            return [found if first else Detections(found.boxes[:0], found.scores[:0], found.labels[:0])]

    for found in explain(Vanishing(*two_objects()), n_samples=7, tolerance=0.5):
        assert (found.matched_samples, found.n_samples) == (0, 7)
        assert found.maps.isnan().all()


@pytest.mark.parametrize("tolerance", [0, 1, -0.1, 1.5, float("nan")])
def test_tolerance_out_of_range(tolerance):
    with pytest.raises(UserInputError, match=f"`tolerance` to be None or between 0 and 1, but got {tolerance}"):
        explain(LinearDetector(*two_objects()), tolerance=tolerance)
