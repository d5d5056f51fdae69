"""Several noise samples in one pass of the backbone: the numbers of one after the other, and no trace."""

import gc
import warnings
import weakref

import pytest
import torch
from helpers.engine_cases import finding_much, first, image_with, on_image, unclipped, untouched

from odsg_lightning.detectors.build import build_detector, load_config
from odsg_lightning.detectors.detectron2 import Detectron2Adapter
from odsg_lightning.detectors.engine.samples import in_batches
from odsg_lightning.detectors.engine.window import UnsupportedModelError
from odsg_lightning.saliency import memory
from odsg_lightning.saliency.gradients import linearize_together
from odsg_lightning.saliency.masks import defined_maps
from odsg_lightning.saliency.memory import images_at_once
from odsg_lightning.saliency.noise import image_generator, noisy_images
from odsg_lightning.saliency.protocol import BatchingDetector
from odsg_lightning.saliency.smoothgrad import smoothgrad
from odsg_lightning.types import Detections


def batching(model, at_once=3, input_format=None):
    adapter = Detectron2Adapter(model, input_format)
    adapter._images_at_once = at_once
    return adapter


def noisy(image, count):
    return list(noisy_images(image, count, 0.05, image_generator(0, 1)))


def batch_sizes(model):
    """Return a list that grows with the number of images of each real pass of the backbone."""
    sizes = []
    model.backbone.bottom_up.register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
    return sizes


def fails_above(model, most):
    """Let memory run out for batches that are larger."""

    def hook(module, args, output):
        if len(args[0]) > most:
            raise torch.cuda.OutOfMemoryError("on purpose")

    model.backbone.bottom_up.res3.register_forward_hook(hook)


class TestHalving:
    """Of batches of numbers, which are doubled."""

    def run(self, count, limit, fits=100, error=torch.cuda.OutOfMemoryError):
        self.drawn, self.batches = [], []

        def images():
            for number in range(count):
                self.drawn.append(number)
                yield number

        def double(batch):
            self.batches.append(batch)
            if len(batch) > fits:
                raise error("on purpose")
            return [2 * number for number in batch]

        return in_batches(images(), limit, double)

    def test_batches_and_the_rest(self):
        assert list(self.run(7, 3)) == [[0, 2, 4], [6, 8, 10], [12]]
        assert self.batches == [[0, 1, 2], [3, 4, 5], [6]]
        assert list(self.run(0, 3)) == []

    def test_memory_runs_out(self):
        assert [one for batch in self.run(9, 8, fits=3) for one in batch] == [2 * number for number in range(9)]
        assert self.batches == [list(range(8)), [0, 1, 2, 3], [0, 1], [2, 3], [4, 5], [6, 7], [8]]
        assert self.drawn == list(range(9))

    def test_what_an_engine_does_not_know_together_goes_alone(self):
        assert list(self.run(5, 4, fits=1, error=UnsupportedModelError)) == [[0], [2], [4], [6], [8]]
        assert [len(batch) for batch in self.batches] == [4, 1, 1, 1, 1, 1]
        with pytest.raises(UnsupportedModelError):
            list(self.run(5, 4, fits=0, error=UnsupportedModelError))

    def test_images_are_drawn_when_their_batch_begins(self):
        results = self.run(7, 2)
        assert self.drawn == []
        assert next(results) == [0, 2]
        assert self.drawn == [0, 1]

    def test_what_cannot_be_halved_is_raised(self):
        with pytest.raises(torch.cuda.OutOfMemoryError):
            list(self.run(5, 4, fits=0))
        assert [len(batch) for batch in self.batches] == [4, 2, 1]
        with pytest.raises(ZeroDivisionError):
            list(self.run(5, 4, fits=2, error=ZeroDivisionError))
        with pytest.raises(RuntimeError, match="on purpose"):
            list(self.run(5, 4, fits=2, error=RuntimeError))
        assert len(self.batches) == 1


def test_how_many_at_once(monkeypatch):
    image, cuda = torch.zeros(3, 1000, 1000), torch.device("cuda")
    free = {}
    monkeypatch.setattr(memory, "free_memory", lambda device: free[device])
    cpu = torch.device("cpu")
    assert images_at_once(image, cpu) == 1
    assert [images_at_once(torch.zeros(3, size, size), cpu) for size in (64, 128, 224, 256, 320, 512, 640)] == [
        16, 8, 2, 2, 1, 1, 1
    ]  # fmt: skip
    for gigabytes, expected in [(0.1, 1), (28.8, 10), (80, 16)]:  # a quarter of it, at 720 MB for a million pixels
        free[cuda] = gigabytes * 1e9
        assert images_at_once(image, cuda) == expected
    free[cuda] = 28.8e9
    assert images_at_once(image.double(), cuda) == 5


def one_by_one(adapter, images, engine):
    return [adapter.linearize(image, engine=engine) for image in images]


def tracks_of(expected):
    """Pair detections of several images as if they were of the same objects, some of them missing here and there."""
    counts = [len(one.detections) for one in expected]
    tracks = [[row if row < count else -1 for count in counts] for row in range(0, max(counts), 7)]
    tracks.append([-1, *[count - 1 for count in counts[1:]]])
    tracks.append([counts[0] - 1, -1, *[0 for _ in counts[2:]]])
    return tracks


@pytest.mark.slow
class TestTrained:
    @pytest.mark.parametrize("engine", ["auto", "windowed", "cut"])
    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_as_one_by_one(self, trained, engine, mode):
        model = finding_much(trained.model)
        cropped = (sample.image[:, :115].double() for sample in trained.samples)  # padded at the bottom
        images = noisy(image_with(Detectron2Adapter(model, "RGB"), cropped, 1), 4)
        expected = one_by_one(Detectron2Adapter(model, "RGB"), images, engine)
        assert all(len(one.detections) > 0 for one in expected)
        sizes = batch_sizes(model)
        with warnings.catch_warnings(), untouched(model), mode():
            warnings.simplefilter("error", RuntimeWarning)  # no fallback
            batches = list(linearize_together(batching(model, 3, "RGB"), iter(images), engine))
            # Autograd through the graph of a batch would pay for every image of it in each of its passes.
            assert sizes == ([1, 1, 1, 1] if engine == "cut" else [3, 1])
            assert [len(batch.detections) for batch in batches] == sizes
            for one, other in zip((one for batch in batches for one in batch.detections), expected, strict=True):
                for field in ("boxes", "scores", "labels"):
                    mine, theirs = getattr(one, field), getattr(other.detections, field)
                    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
            start = 0
            for batch in batches:  # long after they were made
                here = slice(start, start + len(batch.detections))
                start = here.stop
                tracks = [track for track in (track[here] for track in tracks_of(expected)) if max(track) >= 0]
                for track, gradient in zip(tracks, batch.gradients(tracks), strict=True):
                    present = [
                        (image, index) for image, index in zip(range(start)[here], track, strict=True) if index >= 0
                    ]
                    assert len(gradient.values) == len(present)
                    for values, (image, index) in zip(gradient.values, present, strict=True):
                        exact = on_image(next(expected[image].gradients([index])), images[image])
                        mine = on_image(gradient._replace(values=values), images[image])
                        difference = (mine - exact).abs().amax((1, 2, 3))
                        assert (difference <= 1e-9 * exact.abs().amax((1, 2, 3))).all()
                        assert exact.any()

    @pytest.mark.parametrize("fits", [8, 1, 0])
    def test_maps_whether_memory_suffices_or_not(self, trained, fits):
        model = finding_much(trained.model)

        def detections(image):
            with torch.no_grad():
                return Detectron2Adapter(model).detect([image])[0]

        def maps(adapter, image, reference):
            best, generator = unclipped(reference, image)[:2], image_generator(0, 1)
            saliencies = smoothgrad(adapter, image, reference, best, generator=generator, n_samples=5, tolerance=0.2)
            return saliencies, generator.get_state()

        def withstands_noise(image):
            found, _ = maps(Detectron2Adapter(model), image, detections(image))
            return len(found) == 2 and all(defined_maps(one.maps).all() for one in found)

        image = first((sample.image.double() for sample in trained.samples), withstands_noise)
        reference = detections(image)
        expected, state = maps(Detectron2Adapter(model), image, reference)
        sizes = batch_sizes(model)
        fails_above(model, fits)
        if fits == 0:
            with untouched(model), pytest.raises(torch.cuda.OutOfMemoryError):
                maps(batching(model, 4), image, reference)
            return
        with untouched(model):
            found, state_after = maps(batching(model, 4), image, reference)
        assert sizes[0] == (3 if fits == 8 else 1)  # with a tolerance, no more than the fewest that it takes
        assert torch.equal(state, state_after)  # the noise was drawn once
        for one, other in zip(found, expected, strict=True):
            assert (one.matched_samples, one.n_samples) == (other.matched_samples, other.n_samples)
            assert other.matched_samples > 0
            torch.testing.assert_close(one.maps, other.maps, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("after", [0, 1])
    def test_nothing_stays_after_an_error(self, trained, after, monkeypatch):
        model = finding_much(trained.model)
        calls = []

        def fail(*args):
            calls.append(args)
            if len(calls) > after:
                raise ZeroDivisionError("on purpose")
            return Detections(*args)

        monkeypatch.setattr("odsg_lightning.detectors.detectron2_model.Detections", fail)
        with untouched(model), pytest.raises(ZeroDivisionError):  # in the replay of the first or the second image
            next(linearize_together(batching(model), noisy(trained.samples[0].image.double(), 3)))


class TestReplay:
    @pytest.fixture
    def model(self):
        torch.manual_seed(0)
        overrides = {"MODEL.RETINANET.SCORE_THRESH_TEST": 0.0, "TEST.DETECTIONS_PER_IMAGE": 2}
        return build_detector(load_config("retinanet_tiny", overrides)).double().eval()

    image = torch.rand(3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 255

    def test_capability(self, model):
        assert isinstance(Detectron2Adapter(model), BatchingDetector)
        assert list(linearize_together(batching(model), [])) == []
        with pytest.raises(ValueError, match="Expected argument `engine`"):
            linearize_together(batching(model), [self.image], "fast")

    def test_a_cpu_takes_a_large_image_by_itself(self, model, monkeypatch):
        monkeypatch.setattr(memory, "_CPU_PIXELS", 64 * 96)
        sizes, drawn = batch_sizes(model), []
        images = (drawn.append(image) or image for image in noisy(self.image, 3))
        found = linearize_together(Detectron2Adapter(model), images)
        for count in (1, 2, 3):
            next(found)
            assert sizes == [1] * count
            assert len(drawn) == count

    @pytest.mark.parametrize("at_once", [1, 3])
    def test_what_is_yielded_is_not_kept(self, model, at_once):
        found = linearize_together(batching(model, at_once), noisy(self.image, 6))
        gc.disable()  # no cycle that would wait for the collector
        try:
            leaf = weakref.ref(next(found)._head.records[0].leaves[0])
            assert leaf() is None
            second = next(found)
            leaf = weakref.ref(second._head.records[0].leaves[0])
            assert leaf() is not None
            del second
            assert leaf() is None
        finally:
            gc.enable()

    def test_trimmed_together(self, model):
        images, gradients = noisy(self.image, 3), {}
        for trim in (0.0, 0.01):
            (found,) = linearize_together(batching(model), images, "windowed", trim=trim)
            gradients[trim] = next(found.gradients([[0, 0, 0]]))
        exact, trimmed = gradients.values()
        assert exact.dropped == 0 < trimmed.dropped < 0.5
        whole = [on_image(exact._replace(values=v), self.image) for v in exact.values]
        kept = [on_image(trimmed._replace(values=v), self.image) for v in trimmed.values]
        for one, other in zip(whole, kept, strict=True):
            difference, size = ((one - other).abs().sum((1, 2, 3)), one.abs().sum((1, 2, 3)))
            assert (difference <= trimmed.dropped * size).all()

    def test_a_backbone_with_hooks_of_its_own_runs_alone(self, model):
        images = noisy(self.image, 2)
        model.backbone.register_forward_hook(lambda module, args, output: {n: 2 * f for n, f in output.items()})
        expected = one_by_one(Detectron2Adapter(model), images, "auto")
        sizes = batch_sizes(model)
        for one, other in zip(linearize_together(batching(model), images), expected, strict=True):
            assert torch.equal(one.detections[0].boxes, other.detections.boxes)
        assert sizes == [1, 1]

    def test_a_head_with_hooks_of_its_own_runs_image_by_image(self, model):
        images, calls = noisy(self.image, 2), []
        model.head.register_forward_hook(lambda module, args, output: calls.append(len(args[0][0])))
        expected = one_by_one(Detectron2Adapter(model), images, "auto")
        sizes = batch_sizes(model)
        calls.clear()
        (found,) = linearize_together(batching(model), images)
        for one, other in zip(found.detections, expected, strict=True):
            torch.testing.assert_close(one.boxes, other.detections.boxes)
        assert (sizes, calls) == ([2], [1, 1])

    def test_weights_that_change_after_a_batch_are_noticed(self, model):
        (found,) = linearize_together(batching(model), noisy(self.image, 3))
        with torch.no_grad():
            model.head.cls_score.weight.mul_(1.1)
        with untouched(model), pytest.raises(RuntimeError, match=r"weights to be those of linearize\(\)"):
            next(found.gradients([[0, 0, 0]]))

    def test_another_input_is_not_given_the_recorded_features(self, model, monkeypatch):
        images = noisy(self.image, 2)
        prepare = type(model).preprocess_image

        def restless(self, inputs):
            prepared = prepare(self, inputs)
            prepared.tensor *= 1 + 1e-9 * len(inputs)
            return prepared

        expected = one_by_one(Detectron2Adapter(model), images, "auto")
        monkeypatch.setattr(type(model), "preprocess_image", restless)
        sizes = batch_sizes(model)
        found = list(linearize_together(batching(model), images))
        assert sizes == [2, 1, 1]  # together, in vain, and then each by itself
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.detections[0].boxes, other.detections.boxes)
