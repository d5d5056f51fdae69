r"""Which detectors work: are their maps the gradients, which engine computes them, and how long does it take.

    python examples/benchmarks/detectors.py                        # all that is installed: minutes each
    python examples/benchmarks/detectors.py --only "R-CNN|SSD"     # by name, as a regular expression
    python examples/benchmarks/detectors.py --size 224 --rounds 1  # smaller images

The weights are random, so this says nothing of how good a detector is. In double precision, the gradients of an
object's five numbers are compared with central finite differences, in a random half of the pixels; what a detector
detaches (docs/detectors.md) is held fixed for that. In single precision, one noise sample of one object is timed: one
forward pass and the gradients of five numbers.
"""

import argparse
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from measuring import clock, machine, prepare
from row import Row
from torch import Tensor
from torchvision.ops import box_iou

from odsg_lightning.demo.recipe import no_foreign_warnings
from odsg_lightning.names import PARAMETERS
from odsg_lightning.saliency.gradients import engine_choice, linearize
from odsg_lightning.saliency.protocol import Detector
from odsg_lightning.types import Detections

EQUAL = 0.01
"""Largest difference, relative to the derivative, by which finite differences are taken for equal: ReLUs flip."""


def _detectron2() -> list[Row]:
    import rows_detectron2

    return rows_detectron2.ROWS


def _rfdetr() -> list[Row]:
    import rows_rfdetr

    return rows_rfdetr.ROWS


def _torchvision() -> list[Row]:
    import rows_torchvision

    return rows_torchvision.ROWS


def _transformers() -> list[Row]:
    import rows_transformers

    return rows_transformers.ROWS


FAMILIES: dict[str, Callable[[], list[Row]]] = {
    "detectron2": _detectron2,
    "torchvision": _torchvision,
    "transformers": _transformers,
    "rfdetr": _rfdetr,
}
"""By the package that must be installed."""


@dataclass(frozen=True)
class Measured:
    """What a row of the table says."""

    row: Row
    difference: float
    engine: str
    seconds: float


def main(args: Sequence[str] | None = None) -> list[Measured]:
    """Measure, print each row, and return them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="PATTERN", help="detectors in whose name it is found")
    parser.add_argument("--size", type=int, default=320, help="height and width of the image, in pixels")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is printed")
    options = parser.parse_args(args)
    prepare(1, "cpu")
    print(f"{machine('cpu')}, {options.size}x{options.size}\n")
    print("| detector | maps equal finite differences | engine | seconds per object | mind |")
    print("|---|---|---|---|---|")
    results = []
    for package, rows in FAMILIES.items():
        if find_spec(package) is None:
            print(f"{package} is not installed: its detectors are left out.", file=sys.stderr)
            continue
        for row in rows():
            if re.search(options.only, row.name):
                results.append(measure(row, options.size, options.rounds))
                print(_line(results[-1]), flush=True)
    return results


def measure(row: Row, size: int, rounds: int) -> Measured:
    """Build a detector twice: in double precision to compare, in single precision to time."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, size, size, generator=generator) * 255
    with no_foreign_warnings():
        torch.manual_seed(0)
        detector = row.make(size)
        seconds = [_seconds(detector, image) for _ in range(rounds)]
        engine = engine_choice(detector).name
        detector.model.double()
        with row.held(detector):
            difference = largest_difference(detector, image.double(), row.step)
    return Measured(row, difference, engine, statistics.median(seconds))


def largest_difference(detector: Detector, image: Tensor, step: float) -> float:
    """Return the largest relative difference between a derivative of an object's five numbers and its estimate."""
    linearization = linearize(detector, image)
    reference = linearization.detections
    index = _unclipped(reference, image)
    (local,) = linearization.gradients([index])
    gradient = torch.zeros(len(PARAMETERS), *image.shape, dtype=image.dtype)
    height, width = local.values.shape[2:]
    gradient[:, :, local.top : local.top + height, local.left : local.left + width] = local.values

    def numbers(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            (found,) = detector.detect([pixels])
        same = found.labels == reference.labels[index]
        best = (box_iou(reference.boxes[index, None], found.boxes)[0] * same).argmax()
        return found.parameters[best].double()

    differences = []
    for number in range(len(PARAMETERS)):
        half = torch.rand(image.shape, generator=torch.Generator().manual_seed(number)) < 0.5
        direction = gradient[number].sign() * half
        expected = (gradient[number] * direction).sum()
        change = numbers(image + step * direction)[number] - numbers(image - step * direction)[number]
        differences.append(float(abs(change / (2 * step) - expected) / expected))
    return max(differences)


def _unclipped(detections: Detections, image: Tensor) -> int:
    """Return the first detection that no border clips, and that is no sliver."""
    boxes, (height, width) = detections.boxes, image.shape[1:]
    inside = ((boxes > 1) & (boxes < boxes.new_tensor([width - 1, height - 1] * 2))).all(dim=1)
    found = (inside & (boxes[:, 2:] - boxes[:, :2] > 4).all(dim=1)).nonzero()
    if len(found) == 0:
        raise SystemExit("Expected a detection inside the image, but there is none: try another --size.")
    return int(found[0])


def _seconds(detector: Detector, image: Tensor) -> float:
    start = clock("cpu")
    linearization = linearize(detector, image)
    list(linearization.gradients([_unclipped(linearization.detections, image)]))
    return clock("cpu") - start


def _line(measured: Measured) -> str:
    verdict = "yes" if measured.difference < EQUAL else "NO"
    cells = measured.row.name, f"{verdict} ({measured.difference:.0e})", measured.engine, f"{measured.seconds:.2g}"
    return f"| {' | '.join(cells)} | {measured.row.traps} |"


if __name__ == "__main__":
    main()
