"""Every engine gives the maps of plain autograd, on real detectors, in double precision, for the same noise."""

from functools import partial

import pytest
import torch
from helpers.engine_cases import (
    assert_as_plain_autograd,
    cut_through,
    finding_much,
    first,
    full_size,
    image_with,
    on_image,
    unclipped,
)

from odsg_lightning.detectors.detectron2 import Detectron2Adapter
from odsg_lightning.saliency.gradients import gradient_looks
from odsg_lightning.saliency.masks import defined_maps
from odsg_lightning.saliency.noise import image_generator
from odsg_lightning.saliency.smoothgrad import smoothgrad


@pytest.mark.slow
class TestWindowed:
    def test_every_detection_as_plain_autograd(self, trained):
        # Overlapping detections share anchors, cells and proposals; the image is cut through its first object.
        adapter = Detectron2Adapter(finding_much(trained.model))
        assert adapter.choose_engine().name == "windowed"

        def some_are_clipped(image):
            (found,) = adapter.detect([image])
            return 0 < len(unclipped(found, image)) < len(found)

        with torch.no_grad():
            image = first(map(cut_through, trained.samples), some_are_clipped)
        plain = assert_as_plain_autograd(adapter, image, engine="windowed")
        clipped = [bool((gradient[:4] == 0).flatten(1).all(dim=1).any()) for gradient in plain]
        assert any(clipped)
        assert not all(clipped)

    def test_maps_as_plain_autograd(self, trained):
        adapter = Detectron2Adapter(finding_much(trained.model))

        def maps(image, engine):
            with torch.no_grad():
                (reference,) = adapter.detect([image])
            best, generator = unclipped(reference, image)[:3], image_generator(0, 1)
            look = partial(gradient_looks, engine=engine)
            return smoothgrad(adapter, image, reference, best, generator=generator, n_samples=3, look=look)

        def withstands_noise(image):
            found = maps(image, "windowed")
            return len(found) == 3 and all(defined_maps(one.maps).all() for one in found)

        image = first((sample.image.double() for sample in trained.samples), withstands_noise)
        found = [maps(image, engine) for engine in ("autograd", "cut", "windowed")]
        for plain, cut, windowed in zip(*found, strict=True):
            assert plain.matched_samples == cut.matched_samples == windowed.matched_samples > 0
            for other in (cut, windowed):
                difference = (other.maps - plain.maps).abs().amax((1, 2)) / plain.maps.amax((1, 2))
                assert difference.max() < 1e-6

    @pytest.mark.filterwarnings("error:Plain autograd runs")
    @pytest.mark.parametrize("engine", ["cut", "windowed"])
    def test_with_channels_last_as_plain_autograd(self, trained, engine):
        adapter = Detectron2Adapter(finding_much(trained.model).to(memory_format=torch.channels_last))
        image = image_with(adapter, [sample.image.double() for sample in trained.samples], 1)
        assert_as_plain_autograd(adapter, image, [0], engine=engine)

    def test_bfloat16_is_close_and_only_close(self, trained):
        adapter, maps = Detectron2Adapter(trained.model), []
        image = image_with(adapter, [sample.image for sample in trained.samples[1:]], 1)
        for precision in ("full", "bf16"):
            linearization = adapter.linearize(image, engine="windowed", precision=precision)
            (gradient,) = linearization.gradients(unclipped(linearization.detections, image)[:1])
            assert gradient.values.dtype == torch.float32
            maps.append(gradient.values.abs().amax(1).flatten(1))
        assert not torch.allclose(*maps, rtol=1e-4)
        assert all(torch.corrcoef(torch.stack(pair))[0, 1] > 0.99 for pair in zip(*maps, strict=True))

    @pytest.mark.parametrize("precision", ["full", "bf16"])
    def test_trimmed_is_close_and_only_close(self, trained, precision):
        adapter, maps = Detectron2Adapter(trained.model), []
        image = image_with(adapter, [sample.image for sample in trained.samples[1:]], 1)
        for trim in (0.0, 0.05):
            linearization = adapter.linearize(image, engine="windowed", precision=precision, trim=trim)
            (gradient,) = linearization.gradients(unclipped(linearization.detections, image)[:1])
            maps.append(on_image(gradient, image).abs().amax(1).flatten(1))
        apart = (maps[0] - maps[1]).abs().sum(1) / maps[0].sum(1)
        assert 0 < float(apart.max()) < gradient.dropped
        assert all(torch.corrcoef(torch.stack(pair))[0, 1] > 0.98 for pair in zip(*maps, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet_R_50_FPN", "faster_rcnn_R_50_FPN"])
def test_full_size_windowed(name):
    adapter = Detectron2Adapter(full_size(name).double())
    image = torch.rand(3, 90, 120, generator=torch.Generator().manual_seed(1)).double() * 255
    assert_as_plain_autograd(adapter, image, [0, 1], engine="windowed")
