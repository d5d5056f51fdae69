"""On a GPU every engine gives the maps of plain autograd, and those of a CPU, in double precision."""

import copy
import warnings
from functools import partial

import pytest
import torch
from helpers.engine_cases import assert_as_plain_autograd, finding_much, full_size, image_with, unclipped
from helpers.tiny_detr import TRANSFORMERS, processor_of, tiny_transformers
from helpers.tiny_torchvision import KINDS, tiny_torchvision

from odsg_lightning.detectors.detectron2 import Detectron2Adapter
from odsg_lightning.detectors.torchvision import TorchvisionAdapter
from odsg_lightning.saliency.gradients import AutogradLinearization, gradient_looks
from odsg_lightning.saliency.noise import image_generator
from odsg_lightning.saliency.smoothgrad import smoothgrad

IMAGE = torch.rand(3, 64, 80, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 255
REAL_IMAGE = torch.rand(3, 800, 1344, generator=torch.Generator().manual_seed(1)) * 255


def on_cuda(model):
    return copy.deepcopy(model).cuda()


def gradients(linearization, indices=(0, 1)):
    return torch.stack([local.values for local in linearization.gradients(indices)])


def relative(found, expected):
    largest = expected.abs().amax(dim=(2, 3, 4), keepdim=True)
    return float(((found - expected).abs() / largest.where(largest > 0, 1)).max())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["cut", "windowed"])
class TestTrainedDetectors:
    def test_every_detection_as_plain_autograd(self, trained, engine):
        adapter = Detectron2Adapter(on_cuda(finding_much(trained.model)))
        assert adapter.choose_engine(engine).name == engine
        image = trained.samples[0].image.double().cuda()
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # a fallback would prove nothing
            assert_as_plain_autograd(adapter, image, engine=engine)

    def test_maps_of_many_noise_samples_as_on_a_cpu(self, trained, engine):
        # Twenty samples are more than the sixteen that run in one batch.
        model, found = finding_much(trained.model), {}
        image = image_with(Detectron2Adapter(model), [sample.image.double() for sample in trained.samples], 2)
        for device, name in (("cpu", "autograd"), ("cuda", engine)):
            adapter, pixels = Detectron2Adapter(copy.deepcopy(model).to(device)), image.to(device)
            with torch.no_grad():
                (reference,) = adapter.detect([pixels])
            look, generator = partial(gradient_looks, engine=name), image_generator(0, 1)
            best = unclipped(reference, image)[:2]
            found[device] = smoothgrad(adapter, pixels, reference, best, generator=generator, look=look)
        for cpu, gpu in zip(found["cpu"], found["cuda"], strict=True):
            assert cpu.matched_samples == gpu.matched_samples > 0
            difference = (gpu.maps.cpu() - cpu.maps).abs().amax((1, 2)) / cpu.maps.amax((1, 2))
            assert difference.nan_to_num().max() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet_R_50_FPN", "faster_rcnn_R_50_FPN"])
def test_full_size_windowed(name):
    adapter = Detectron2Adapter(full_size(name).double().cuda())
    assert_as_plain_autograd(adapter, REAL_IMAGE[:, :90, :120].double().cuda(), [0, 1], engine="windowed")


@pytest.mark.slow
@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("precision", ["full", "bf16"])
def test_single_precision_is_close_to_double(trained, tf32, precision, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    exact, fast = Detectron2Adapter(on_cuda(trained.model).double()), Detectron2Adapter(on_cuda(trained.model))
    image = image_with(fast, [sample.image.cuda() for sample in trained.samples[1:]], 1)
    maps = []
    for adapter, pixels, kind in ((exact, image.double(), "full"), (fast, image, precision)):
        linearization = adapter.linearize(pixels, engine="windowed", precision=kind)
        (local,) = linearization.gradients(unclipped(linearization.detections, image)[:1])
        maps.append(local.values.abs().amax(1).double())
    # TF32, PyTorch's default for convolutions, rounds at 1e-3: ReLUs near zero flip in the forward pass.
    least = 0.95 if tf32 else 0.99 if precision == "bf16" else 0.9999
    for one, other in zip(*maps, strict=True):
        assert torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1] > least


@pytest.mark.slow
def test_memory_that_runs_out_halves_what_runs_at_once():
    adapter = Detectron2Adapter(full_size("retinanet_R_50_FPN").double().cuda())
    images = [REAL_IMAGE.double().cuda() + index for index in range(8)]  # in one batch

    def of_all():
        looks = gradient_looks(adapter, iter(images), engine="windowed")
        return [
            maps.values.cpu()
            for look in looks
            for maps in look.maps([[index] * len(look.detections) for index in (0, 1)])
        ]

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    plenty, total = of_all(), torch.cuda.get_device_properties(0).total_memory
    peak, weights = torch.cuda.max_memory_reserved(), torch.cuda.memory_allocated()
    try:
        # A limit that free_memory() does not know of: more is taken at once than there is.
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((weights + (peak - weights) * 0.6) / total)
        scarce = of_all()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    for one, other in zip(plenty, scarce, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-6 * float(one.max()))


def as_on_a_cpu(build):
    """Plain and batched autograd on a GPU against plain autograd on a CPU."""
    expected = AutogradLinearization(build("cpu"), IMAGE)
    for batched in (False, True):
        found = AutogradLinearization(build("cuda"), IMAGE.cuda(), batched=batched)
        torch.testing.assert_close(found.detections.boxes.cpu(), expected.detections.boxes)
        assert relative(gradients(found).cpu(), gradients(expected)) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_torchvision_as_on_a_cpu(kind):
    as_on_a_cpu(lambda device: TorchvisionAdapter(tiny_torchvision(kind).double().to(device)))


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_transformers_as_on_a_cpu(kind):
    pytest.importorskip("transformers")
    from odsg_lightning.detectors.transformers import TransformersAdapter

    processor = processor_of(kind, do_normalize=False)
    as_on_a_cpu(lambda device: TransformersAdapter(tiny_transformers(kind).double().to(device), processor))


def test_rfdetr_is_explained():
    pytest.importorskip("rfdetr")
    from helpers.tiny_detr import tiny_rfdetr

    from odsg_lightning import resolve_adapter
    from odsg_lightning.saliency.gradients import linearize

    found = gradients(linearize(resolve_adapter(tiny_rfdetr().cuda()), IMAGE.float().cuda()))
    assert found.is_cuda
    assert found.isfinite().all()
    assert (found.abs().amax(dim=(2, 3, 4)) > 0).any(dim=1).all()
