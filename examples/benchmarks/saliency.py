r"""How fast are the gradient maps of one object: every way to compute them, in one table.

    python examples/benchmarks/saliency.py --quick          # under 3 minutes
    python examples/benchmarks/saliency.py                  # RetinaNet and Faster R-CNN at full size
    python examples/benchmarks/saliency.py --all            # every detector, size and number of objects: many hours
    python examples/benchmarks/saliency.py --device cuda

All variants of a case take turns in every round, so that a ratio compares neighbours in time.
"""

import argparse
import gc
import json
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from case import Case
from measuring import ConvolutionPeak, OperationCounter, clock, machine, peak_memory_mib, prepare
from peak_memory import mib_above_forward
from planted import Planted, plant
from report import further_table, note, notes_below, saliency_table, title
from torch import Tensor
from variants import VARIANTS, one_by_one, why_not

from odsg_lightning.names import PARAMETERS

DETECTORS = ["retinanet_R_50_FPN", "faster_rcnn_R_50_FPN", "retinanet_R_101_FPN", "faster_rcnn_R_101_FPN"]
SIZES, COUNTS, OBJECT_SIZES = ["320x320", "480x640", "800x1344"], [1, 5, 10], [32, 96, 256]
_DEFAULT = [
    ("retinanet_R_50_FPN", "480x640", 5, 96),
    ("retinanet_R_50_FPN", "800x1344", 5, 96),
    ("faster_rcnn_R_50_FPN", "480x640", 5, 96),
    ("faster_rcnn_R_50_FPN", "800x1344", 5, 96),
    ("retinanet_R_101_FPN", "800x1344", 5, 96),
]
_QUICK = [("retinanet_R_50_FPN", "320x320", 2, 96), ("faster_rcnn_R_50_FPN", "320x320", 2, 96)]
_ENGINES = [name for name in VARIANTS if name.startswith(("cut", "windowed")) and not name.endswith("logits")]
Setting = tuple[str, str, int, int]


def main(args: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print, and return the raw numbers of each case."""
    options = _parse(args)
    prepare(options.threads, options.device, options.tf32)
    settings = _settings(options)
    note(machine(options.device))
    note(f"{len(settings)} cases: about {_estimate(settings, options) / 60:.0f} minutes on one core of 2.6 GHz.")
    results = []
    for number, (name, image_size, count, size) in enumerate(settings, 1):
        height, width = map(int, image_size.split("x"))
        case = {"detector": name, "image": image_size, "objects": count, "object_size": size}
        note(f"[{number}/{len(settings)}] {name} {image_size}, {count} objects of {size} px: planting")
        try:
            planted = plant(name, height, width, count, size, options.seed)
        except ValueError as reason:  # so many do not fit; a network that finds too few is an error
            note(f"  skipped: {reason}")
            results.append(case | {"skipped": str(reason), "variants": {}})
        else:
            results.append(case | _measure(_on(planted, options.device), options))
        if options.output:  # after each, as all of them take hours
            written = {"machine": machine(options.device), "cases": results}
            options.output.write_text(json.dumps(written, indent=1) + "\n")
    title(machine(options.device), options)
    saliency_table(results)
    if options.further:
        further_table(results)
    notes_below(results)
    return results


def _measure(planted: Planted, options: argparse.Namespace) -> dict[str, Any]:
    """Measure every variant of one case; see the keys in the code."""
    case = Case(planted, options.reference_outputs)
    variants: dict[str, dict[str, Any]] = {}
    gradients: dict[str, list[Tensor]] = {}
    for name in options.variants:
        reason = why_not(case, name)
        if not reason:
            note(f"  {name}: warming up and counting")
            with warnings.catch_warnings(record=True) as caught, OperationCounter() as operations:
                warnings.simplefilter("always", RuntimeWarning)
                cost, gradients[name] = VARIANTS[name](case, operations.read)
            reason = next((str(w.message) for w in caught if "runs instead" in str(w.message)), "")
            variants[name] = {"gflop": cost.total / 1e9, "seconds": [], "shares": []}
        if reason:
            note(f"  {name}: skipped, {reason}")
            variants[name] = {"skipped": reason}
    for name, values in gradients.items():
        if name in _ENGINES and "autograd" in gradients:
            variants[name] |= _differences(values, gradients["autograd"])
    gradients.clear()
    running = [name for name, variant in variants.items() if "skipped" not in variant]
    peak = ConvolutionPeak(options.device)
    further: list[float] = []
    for number in range(options.rounds):
        for name in running:
            gc.collect()
            cost, _ = VARIANTS[name](case, lambda: clock(options.device))
            note(f"  round {number + 1}/{options.rounds} {name}: {cost.total:.3g} s per object")
            variants[name]["seconds"].append(cost.total)
            variants[name]["shares"].append([cost.forward, cost.head, cost.backbone])
            peak.measure()
        if options.further and "windowed" in running and case.count > 1:
            further.append(_further(case, number, options.device))
    if options.memory:
        main = ("autograd", "windowed") if options.quick else ("backward", "autograd", *_ENGINES)
        for name, mib in _memory(planted, [name for name in running if name in main], options):
            variants[name]["memory_mib"] = mib
    return {"variants": variants, "convolution_gflops": peak.gflops, "further": further}


def _memory(planted: Planted, names: Sequence[str], options: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """Yield the peak memory of each variant above that of a forward pass, in MiB."""
    if options.device == "cuda":
        yield from ((name, mib_above_forward(Case(planted, outputs=1), name, "cuda")) for name in names)
        return
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "planted.pt"
        torch.save(planted, saved)
        for name in names:
            note(f"  {name}: memory")
            yield name, peak_memory_mib(saved, name, options.threads)


def _further(case: Case, number: int, device: str) -> float:
    """Return the cost of a further object as a share of that of the first one, with the windowed engine."""
    seconds = []
    for found in ([number % case.count], range(case.count)):
        gc.collect()
        cost, _ = VARIANTS["windowed"](case.only(found), lambda: clock(device))
        seconds.append(cost.total * len(found))
    return (seconds[1] - seconds[0]) / (case.count - 1) / seconds[0]


def _differences(values: Sequence[Tensor], reference: Sequence[Tensor]) -> dict[str, float]:
    """Return the worst gradient's largest and root mean square difference, relative to those of the gradient itself."""
    pairs = list(zip(values, reference, strict=True))
    return {
        "max_relative_difference": max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs),
        "rms_relative_difference": max(float((one - other).norm() / other.norm()) for one, other in pairs),
    }


def _on(planted: Planted, device: str) -> Planted:
    return Planted(planted.model.to(device), planted.image.to(device), planted.indices, planted.boxes.to(device))


def _settings(options: argparse.Namespace) -> list[Setting]:
    """Return the cases: the named ones, or the product of what was given on the command line."""
    given = (options.detectors, options.sizes, options.objects, options.object_size)
    if options.all:
        return list(product(DETECTORS, SIZES, COUNTS, OBJECT_SIZES))
    if not any(given):
        return _QUICK if options.quick else _DEFAULT
    defaults = (["retinanet_R_50_FPN"], ["480x640"], [5], [96])
    return list(product(*(values or default for values, default in zip(given, defaults, strict=True))))


def _estimate(settings: Sequence[Setting], options: argparse.Namespace) -> float:
    """Return roughly how many seconds all of it takes: 7 s per megapixel and backward pass of a R50."""
    passes = {"backward": 5.0, "stacked": 3.0, "captum": 3.0, "drise": 1.0, "autograd": options.reference_outputs + 0.5}
    seconds = 0.0
    for name, image_size, count, _ in settings:
        height, width = map(int, image_size.split("x"))
        one = 7e-6 * height * width * (1.4 if "101" in name else 1) + 0.5
        engines = {"cut": 3.0 * count + 0.5, "windowed": 1.0 * count + 0.5, "windowed-bf16": 0.8 * count + 0.5}
        engines |= {"windowed-trimmed": 0.7 * count + 0.5, "windowed-trimmed-bf16": 0.5 * count + 0.5}
        engines |= {f"{name}-16": 16 * engines[name] for name in ("windowed", "windowed-trimmed-bf16")}
        image = torch.empty(3, height, width, device=options.device)
        run = [name for name in options.variants if not one_by_one(name, image)]
        once = sum((passes | engines)[name.removesuffix("-logits")] for name in run)
        seconds += one * (10 + once * (1 + options.rounds + (0.7 if options.memory else 0)))
    return seconds


def _parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two small cases, the main variants: under 3 minutes")
    parser.add_argument("--all", action="store_true", help="every case")
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS)
    parser.add_argument("--sizes", nargs="+", help="height x width of the image, as 480x640")
    parser.add_argument("--objects", nargs="+", type=int, help="numbers of objects in the picture")
    parser.add_argument("--object-size", nargs="+", type=int, help="sides of the objects in pixels")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), help="all by default")
    parser.add_argument("--rounds", type=int, help="measurements of each variant (3; --quick: 2)")
    parser.add_argument(
        "--reference-outputs",
        type=int,
        help="outputs that plain autograd differentiates per round; others are taken to cost the same (5; --quick: 2)",
    )
    parser.add_argument("--further", action="store_true", help="also measure the cost of a further object")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="do not measure memory")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--tf32", action="store_true", help="let a GPU round to TF32, as PyTorch lets its convolutions")
    parser.add_argument("--seed", type=int, default=0, help="of weights, picture and noise")
    parser.add_argument("--output", type=Path, help="JSON file of all raw numbers")
    options = parser.parse_args(args)
    quick = [name for name in VARIANTS if name in ("autograd", "cut") or name.startswith("windowed")]
    options.variants = options.variants or (quick if options.quick else list(VARIANTS))
    options.rounds = options.rounds or (2 if options.quick else 3)
    options.reference_outputs = options.reference_outputs or (2 if options.quick else len(PARAMETERS))
    return options


if __name__ == "__main__":
    main()
