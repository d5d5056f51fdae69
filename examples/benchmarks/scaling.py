r"""How the cost of an audit grows with its images, objects, noise samples and devices.

    python examples/benchmarks/scaling.py                                         # a tiny detector: 10 minutes
    python examples/benchmarks/scaling.py --detector retinanet_R_50_FPN --size 640 --images 2 4 --rounds 1

Times `odsg audit` as it is, reading the files and starting the processes included, on generated shapes. One number
varies at a time, the others stay at their first values, or at their last while devices vary; everything takes turns in
every round, and ratios are within a round. The detector has random weights and its objects are asked for with
``target="ground_truth"``, as it detects none: what gradients cost does not depend on what was learned. Pixels
of objects that are not detected are not hidden; `occlusion.py` has what that adds.
"""

import argparse
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from measuring import machine
from rich.console import Console
from rich.table import Table

from odsg_lightning import DetectionModule
from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.checkpoints.audit import audit_checkpoint
from odsg_lightning.data.audit_set_choice import choose_audit_set
from odsg_lightning.demo.recipe import no_foreign_warnings
from odsg_lightning.demo.shapes import make_shapes
from odsg_lightning.records.audit_set import write_audit_set

CATEGORIES = ("rectangle", "triangle", "star")  # of the generated shapes


class Case(NamedTuple):
    """What is audited: numbers of images, objects of each at most, noise samples, and devices."""

    images: int
    objects: int
    samples: int
    devices: int


def cases(numbers: dict[str, Sequence[int]]) -> dict[str, list[Case]]:
    """Return, by what varies, the cases in which nothing else does: all else is least, or most for devices."""
    least, most = (Case(**{name: values[end] for name, values in numbers.items()}) for end in (0, -1))
    return {
        name: [(most if name == "devices" else least)._replace(**{name: value}) for value in values]
        for name, values in numbers.items()
    }


def main(args: Sequence[str] | None = None) -> dict[str, list[list[float]]]:
    """Measure, print, and return by what varies the seconds of each case in each round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[8, 16, 32], help="of the audit set")
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 2, 3], help="of an image, at most")
    parser.add_argument("--samples", type=int, nargs="+", default=[10, 20, 40], help="noise samples")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2], help="that share the images out")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--detector", default="retinanet_tiny", help="a name in configs/detectors")
    parser.add_argument("--size", type=int, default=128, help="of an image, in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(args)
    varied = cases({name: getattr(options, name) for name in Case._fields})
    everything = dict.fromkeys(case for several in varied.values() for case in several)
    seconds: dict[Case, list[float]] = {case: [] for case in everything}
    folder = Path(tempfile.mkdtemp())
    try:
        with no_foreign_warnings():
            warnings.filterwarnings("ignore", message=".*objects were paired")
            _prepare(folder, options.detector, options.size, options.images)
            _seconds(folder, next(iter(everything)), options.detector, options.device)  # the first is always slow
            for _ in range(options.rounds):
                for case in everything:
                    seconds[case].append(_seconds(folder, case, options.detector, options.device))
    finally:
        shutil.rmtree(folder)
    _print(varied, seconds, f"{options.detector}, {options.size}x{options.size}; {machine(options.device)}")
    return {name: [seconds[case] for case in several] for name, several in varied.items()}


def _prepare(folder: Path, detector: str, size: int, images: Sequence[int]) -> None:
    torch.manual_seed(0)
    module = DetectionModule(detector, num_classes=len(CATEGORIES))
    module.category_names = CATEGORIES
    module.export_weights(folder / "model.pth")
    shapes = make_shapes(folder / "shapes", n_train=1, n_val=max(images), size=size)
    for count in images:
        chosen, _ = choose_audit_set(shapes.val_annotations, shapes.val_images, count=count, min_size=size)
        write_audit_set(chosen, folder / f"{count}.json")


def _seconds(folder: Path, case: Case, detector: str, device: str) -> float:
    config = AuditConfig(target="ground_truth", n_samples=case.samples, max_objects_per_image=case.objects)
    begun = time.perf_counter()
    audit_checkpoint(
        folder / "model.pth",
        folder / f"{case.images}.json",
        folder / "record.json",
        config,
        detector_config=detector,
        device=device,
        devices=case.devices,
    )
    return time.perf_counter() - begun


def _print(varied: dict[str, list[Case]], seconds: dict[Case, list[float]], title: str) -> None:
    table = Table(title=title)
    for name in ("varied", *Case._fields, "seconds", "times the first (range of rounds)"):
        table.add_column(name, justify="right")
    for name, several in varied.items():
        for case in several:
            ratios = [own / first for own, first in zip(seconds[case], seconds[several[0]], strict=True)]
            told = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            table.add_row(name, *map(str, case), f"{statistics.median(seconds[case]):.1f}", told)
        table.add_section()
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
