"""Every engine gives the maps of plain autograd, on real detectors, in double precision, for the same noise."""

import pytest
import torch
from helpers.engine_cases import assert_as_plain_autograd, finding_much, full_size

from odsg_lightning.detectors.detectron2 import Detectron2Adapter
from odsg_lightning.saliency.noise import image_generator
from odsg_lightning.saliency.smoothgrad import smoothgrad


@pytest.mark.slow
class TestWindowed:
    def test_every_detection_as_plain_autograd(self, trained):
        # Overlapping detections share anchors, cells and proposals; the image is cut through its first object.
        adapter = Detectron2Adapter(finding_much(trained.model))
        sample = trained.samples[2]
        image = sample.image[:, :115, : int(sample.boxes[0, 0::2].mean())].double()
        assert adapter.choose_engine().name == "windowed"
        plain = assert_as_plain_autograd(adapter, image, engine="windowed")
        clipped = [bool((gradient[:4] == 0).flatten(1).all(dim=1).any()) for gradient in plain]
        assert any(clipped)
        assert not all(clipped)

    def test_maps_as_plain_autograd(self, trained):
        adapter, sample = Detectron2Adapter(finding_much(trained.model)), trained.samples[0]
        image = sample.image.double()
        with torch.no_grad():
            (reference,) = adapter.detect([image])
        best = reference.scores.argsort(descending=True)[:3].tolist()
        found = {
            engine: smoothgrad(
                adapter, image, reference, best, generator=image_generator(0, 1), n_samples=3, engine=engine
            )
            for engine in ("autograd", "cut", "windowed")
        }
        for plain, cut, windowed in zip(*found.values(), strict=True):
            assert plain.matched_passes == cut.matched_passes == windowed.matched_passes > 0
            for other in (cut, windowed):
                difference = (other.maps - plain.maps).abs().amax((1, 2)) / plain.maps.amax((1, 2))
                assert difference.max() < 1e-6

    def test_bfloat16_is_close_and_only_close(self, trained):
        adapter, image = Detectron2Adapter(trained.model), trained.samples[1].image
        maps = []
        for precision in ("full", "bf16"):
            linearization = adapter.linearize(image, engine="windowed", precision=precision)
            (gradient,) = linearization.gradients([0])
            assert gradient.values.dtype == torch.float32
            maps.append(gradient.values.abs().amax(1).flatten(1))
        assert not torch.allclose(*maps, rtol=1e-4)
        assert all(torch.corrcoef(torch.stack(pair))[0, 1] > 0.99 for pair in zip(*maps, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet_R_50_FPN", "faster_rcnn_R_50_FPN"])
def test_full_size_windowed(name):
    adapter = Detectron2Adapter(full_size(name).double())
    image = torch.rand(3, 90, 120, generator=torch.Generator().manual_seed(1)).double() * 255
    assert_as_plain_autograd(adapter, image, [0, 1], engine="windowed")
