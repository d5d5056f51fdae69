r"""Does engine='batched' pay: several cotangents in each backward pass against one pass for each number.

    python examples/benchmarks/batched.py                          # 3 minutes
    python examples/benchmarks/batched.py --size 320 --objects 4   # larger images
    python examples/benchmarks/batched.py --device cuda

Small and usual DETR-like detectors of transformers, and SSDlite of torchvision, all with random weights: this says
nothing of how good a detector is. Both engines take turns in every round, on the same image; the ratio is the median
over rounds, with its range. The difference is the largest of all gradients, relative to the largest gradient.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from measuring import clock, machine, prepare
from torch import Tensor, nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from odsg_lightning.detectors.torchvision import TorchvisionAdapter
from odsg_lightning.saliency.gradients import linearize
from odsg_lightning.saliency.protocol import Detector


@dataclass(frozen=True)
class Measured:
    """Seconds for each object in each round, and by how much the gradients differ."""

    name: str
    one_by_one: list[float]
    batched: list[float]
    difference: float


def main(args: Sequence[str] | None = None) -> list[Measured]:
    """Measure, print each line, and return them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="detectors whose name contains it")
    parser.add_argument("--size", type=int, default=96, help="height and width of the image, in pixels")
    parser.add_argument("--objects", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options = parser.parse_args(args)
    prepare(1, options.device)
    print(f"{machine(options.device)}, {options.size}x{options.size}, {options.objects} objects\n")
    print(
        "| detector | one by one, s per object | batched | times faster (range) | difference |\n|---|---|---|---|---|"
    )
    results = []
    for name, make in DETECTORS.items():
        if options.only in name:
            results.append(measure(name, make(options.size, options.device), options))
            print(_line(results[-1]), flush=True)
    return results


def measure(name: str, detector: Detector, options: argparse.Namespace) -> Measured:
    """Time the gradients of a few objects, without the forward pass, which both engines share."""
    image = torch.rand(3, options.size, options.size, generator=torch.Generator().manual_seed(0)) * 255
    seconds: dict[str, list[float]] = {"autograd": [], "batched": []}
    gradients: dict[str, Tensor] = {}
    for _ in range(options.rounds):
        for engine, times in seconds.items():
            linearization = linearize(detector, image.to(options.device), engine)
            indices = range(min(options.objects, len(linearization.detections)))
            start = clock(options.device)
            found = [local.values for local in linearization.gradients(indices)]
            times.append((clock(options.device) - start) / len(indices))
            gradients[engine] = torch.stack(found)
    reference = gradients["autograd"]
    difference = (gradients["batched"] - reference).abs().max() / reference.abs().max()
    return Measured(name, seconds["autograd"], seconds["batched"], float(difference))


def _rt_detr(width: int, channels: Sequence[int], layers: int) -> Callable[[int, str], Detector]:
    def make(size: int, device: str) -> Detector:
        from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrImageProcessor, RTDetrResNetConfig

        from odsg_lightning.detectors.transformers import TransformersAdapter

        backbone = RTDetrResNetConfig(
            embedding_size=channels[0],
            hidden_sizes=list(channels),
            depths=[2, 2, 2, 2],
            layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        )
        config = RTDetrConfig(
            backbone_config=backbone,
            encoder_in_channels=list(channels[1:]),
            encoder_hidden_dim=width,
            d_model=width,
            decoder_in_channels=[width] * 3,
            decoder_layers=layers,
            num_queries=50,
        )
        processor = RTDetrImageProcessor(size={"height": size, "width": size})
        return TransformersAdapter(_random(RTDetrForObjectDetection(config)).to(device), processor)

    return make


def _detr(size: int, device: str) -> Detector:
    from transformers import DetrConfig, DetrForObjectDetection, DetrImageProcessor, ResNetConfig

    from odsg_lightning.detectors.transformers import TransformersAdapter

    backbone = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 64, 64], depths=[1, 1, 1, 1], out_features=["stage4"]
    )
    layers = {"encoder_layers": 2, "decoder_layers": 2, "d_model": 64, "num_queries": 20, "num_labels": 3}
    processor = DetrImageProcessor(size={"height": size, "width": size})
    return TransformersAdapter(
        _random(DetrForObjectDetection(DetrConfig(backbone_config=backbone, **layers))).to(device), processor
    )


def _ssdlite(size: int, device: str) -> Detector:
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    return TorchvisionAdapter(model.eval().to(device))


def _random(model: nn.Module) -> nn.Module:
    """Give the box heads weights, too: untrained, their last layer is zero and no gradient flows."""
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


DETECTORS: dict[str, Callable[[int, str], Detector]] = {
    "tiny DETR": _detr,
    "tiny RT-DETR": _rt_detr(64, (16, 16, 32, 32), 2),
    "RT-DETR-R18": _rt_detr(256, (64, 128, 256, 512), 3),
    "SSDlite320-MobileNetV3 (320x320)": _ssdlite,
}


def _line(measured: Measured) -> str:
    ratios = [alone / batched for alone, batched in zip(measured.one_by_one, measured.batched, strict=True)]
    medians = [statistics.median(times) for times in (measured.one_by_one, measured.batched)]
    return (
        f"| {measured.name} | {medians[0]:.3f} | {medians[1]:.3f} | {statistics.median(ratios):.1f} "
        f"({min(ratios):.1f} to {max(ratios):.1f}) | {measured.difference:.0e} |"
    )


if __name__ == "__main__":
    main()
