"""Several noise samples in one pass of the backbone: the numbers of one after the other, and no trace."""

import gc
import warnings
import weakref

import pytest
import torch
from helpers.engine_cases import finding_much, first, image_with, on_image, unclipped, untouched

from odsg_lightning.detectors.build import build_detector, load_config
from odsg_lightning.detectors.detectron2 import Detectron2Adapter
from odsg_lightning.detectors.engine import samples
from odsg_lightning.detectors.engine.samples import in_batches, samples_at_once
from odsg_lightning.saliency.gradients import linearize_each
from odsg_lightning.saliency.masks import defined_maps
from odsg_lightning.saliency.noise import image_generator, noisy_images
from odsg_lightning.saliency.protocol import BatchingDetector
from odsg_lightning.saliency.smoothgrad import smoothgrad


def batching(model, at_once=3, input_format=None):
    adapter = Detectron2Adapter(model, input_format)
    adapter._samples_at_once = at_once
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

    def run(self, count, limit, fits=100, fails=(), error=torch.cuda.OutOfMemoryError):
        self.drawn, self.batches, fails = [], [], list(fails)

        def images():
            for number in range(count):
                self.drawn.append(number)
                yield number

        def finish(number):
            if number in fails:
                fails.remove(number)
                raise error("on purpose")
            return 2 * number

        def start(batch):
            self.batches.append(batch)
            if len(batch) > fits:
                raise error("on purpose")
            return [lambda number=number: finish(number) for number in batch]

        return in_batches(images(), limit, start)

    def test_batches_and_the_rest(self):
        assert list(self.run(7, 3)) == [0, 2, 4, 6, 8, 10, 12]
        assert self.batches == [[0, 1, 2], [3, 4, 5], [6]]
        assert list(self.run(0, 3)) == []

    def test_memory_runs_out_at_the_start(self):
        assert list(self.run(9, 8, fits=3)) == [2 * number for number in range(9)]
        assert self.batches == [list(range(8)), [0, 1, 2, 3], [0, 1], [2, 3], [4, 5], [6, 7], [8]]
        assert self.drawn == list(range(9))

    def test_memory_runs_out_in_the_middle(self):
        assert list(self.run(7, 4, fails=[2])) == [2 * number for number in range(7)]
        assert self.batches == [[0, 1, 2, 3], [2, 3], [4, 5], [6]]
        assert self.drawn == list(range(7))

    def test_images_are_drawn_when_their_batch_begins(self):
        results = self.run(7, 2)
        assert self.drawn == []
        assert next(results) == 0
        assert next(results) == 2
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
    monkeypatch.setattr(samples, "free_memory", lambda device: free[device])
    assert samples_at_once(image, torch.device("cpu")) == 1
    for gigabytes, expected in [(0.1, 1), (25.6, 10), (80, 16)]:  # a quarter of it, at 640 MB for a million pixels
        free[cuda] = gigabytes * 1e9
        assert samples_at_once(image, cuda) == expected
    free[cuda] = 25.6e9
    assert samples_at_once(image.double(), cuda) == 5


def one_by_one(adapter, images, engine):
    return [adapter.linearize(image, engine=engine) for image in images]


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
            found = list(linearize_each(batching(model, 3, "RGB"), iter(images), engine))
            # Autograd through the graph of a batch would pay for every image of it in each of its passes.
            assert sizes == ([1, 1, 1, 1] if engine == "cut" else [3, 1])
            for index in (2, 0, 1, 3):  # in any order, long after they were made
                one, other, image = found[index], expected[index], images[index]
                for field in ("boxes", "scores", "labels"):
                    torch.testing.assert_close(
                        getattr(one.detections, field), getattr(other.detections, field), rtol=1e-9, atol=1e-9
                    )
                rows = range(0, len(other.detections), 7)
                for mine, theirs in zip(one.gradients(rows), other.gradients(rows), strict=True):
                    exact = on_image(theirs, image)
                    difference = (on_image(mine, image) - exact).abs().amax((1, 2, 3))
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
        assert sizes[0] == (4 if fits == 8 else 1)
        assert torch.equal(state, state_after)  # the noise was drawn once
        for one, other in zip(found, expected, strict=True):
            assert (one.matched_samples, one.n_samples) == (other.matched_samples, other.n_samples)
            assert other.matched_samples > 0
            torch.testing.assert_close(one.maps, other.maps, rtol=1e-9, atol=1e-12)

    def test_nothing_stays_after_an_error(self, trained):
        model = finding_much(trained.model)
        images = noisy(trained.samples[0].image.double(), 3)
        part = model.head.cls_score if hasattr(model, "head") else model.roi_heads.box_head.fc1
        broken = []

        def fail(*args):
            if broken:
                raise ZeroDivisionError("on purpose")

        part.register_forward_hook(fail)
        with untouched(model):
            found = linearize_each(batching(model), images)
            next(found)
            broken.append(True)
            with pytest.raises(ZeroDivisionError):  # in the replay of the second image
                next(found)


class TestReplay:
    @pytest.fixture
    def model(self):
        torch.manual_seed(0)
        overrides = {"MODEL.RETINANET.SCORE_THRESH_TEST": 0.0, "TEST.DETECTIONS_PER_IMAGE": 2}
        return build_detector(load_config("retinanet_tiny", overrides)).double().eval()

    image = torch.rand(3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 255

    def test_capability(self, model):
        assert isinstance(Detectron2Adapter(model), BatchingDetector)
        assert list(linearize_each(batching(model), [])) == []
        with pytest.raises(ValueError, match="Expected argument `engine`"):
            linearize_each(batching(model), [self.image], "fast")

    def test_a_cpu_takes_one_at_a_time(self, model):
        sizes, drawn = batch_sizes(model), []
        images = (drawn.append(image) or image for image in noisy(self.image, 3))
        found = linearize_each(Detectron2Adapter(model), images)
        for count in (1, 2, 3):
            next(found)
            assert sizes == [1] * count
            assert len(drawn) == count

    @pytest.mark.parametrize("at_once", [1, 3])
    def test_what_is_yielded_is_not_kept(self, model, at_once):
        found = linearize_each(batching(model, at_once), noisy(self.image, 3))
        gc.disable()  # no cycle that would wait for the collector
        try:
            leaf = weakref.ref(next(found)._head.leaves[0])
            assert leaf() is None
            second = next(found)
            leaf = weakref.ref(second._head.leaves[0])
            assert leaf() is not None
            del second
            assert leaf() is None
        finally:
            gc.enable()

    def test_a_backbone_with_hooks_of_its_own_runs_alone(self, model):
        images = noisy(self.image, 2)
        model.backbone.register_forward_hook(lambda module, args, output: {n: 2 * f for n, f in output.items()})
        expected = one_by_one(Detectron2Adapter(model), images, "auto")
        sizes = batch_sizes(model)
        for one, other in zip(linearize_each(batching(model), images), expected, strict=True):
            assert torch.equal(one.detections.boxes, other.detections.boxes)
        assert sizes == [1, 1]

    def test_weights_that_change_within_a_batch_are_noticed(self, model):
        found = linearize_each(batching(model), noisy(self.image, 3))
        next(found)
        with torch.no_grad():
            model.head.cls_score.weight.mul_(1.1)
        with untouched(model), pytest.raises(RuntimeError, match=r"weights to be those of linearize\(\)"):
            next(found)

    def test_another_input_is_not_given_the_recorded_features(self, model, monkeypatch):
        images = noisy(self.image, 2)
        prepare = type(model).preprocess_image

        def restless(self, inputs):
            prepared = prepare(self, inputs)
            prepared.tensor *= 1 + 1e-9 * len(inputs)
            return prepared

        expected = one_by_one(Detectron2Adapter(model), images, "auto")
        monkeypatch.setattr(type(model), "preprocess_image", restless)
        with pytest.warns(RuntimeWarning, match="the backbone's input differs from that in a batch"):
            found = list(linearize_each(batching(model), images))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.detections.boxes, other.detections.boxes)
