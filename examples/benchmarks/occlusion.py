r"""Which share of an audit goes into hiding pixels: the same audit with and without, in turns.

    python examples/benchmarks/occlusion.py --quick      # the tiny detector alone: 1 minute
    python examples/benchmarks/occlusion.py              # and RetinaNet-R50-FPN at 480x640: 20 minutes on one core

Both take turns in every round, so that a ratio compares neighbours in time.
"""

import argparse
import statistics
from collections.abc import Sequence

import torch
from measuring import clock, machine, prepare
from planted import Planted, box_sample, plant
from rich.console import Console
from rich.table import Table
from scene import draw_scene

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.loop import audit
from odsg_lightning.demo.recipe import no_foreign_warnings
from odsg_lightning.detectors.build import build_detector, load_config
from odsg_lightning.detectors.detectron2 import Detectron2Adapter


def tiny() -> Planted:
    """Return the tiny detector with random weights; its first two detections are taken for the objects."""
    torch.manual_seed(0)
    model = build_detector(load_config("retinanet_tiny", {"MODEL.RETINANET.SCORE_THRESH_TEST": 0.0})).eval()
    image = draw_scene(128, 128, torch.tensor([[40.0, 40.0, 80.0, 80.0]]), torch.Generator().manual_seed(0))
    with torch.no_grad():
        (found,) = Detectron2Adapter(model.requires_grad_(False)).detect([image])
    return Planted(model, image, [0, 1], found.boxes[:2])


def main(args: Sequence[str] | None = None) -> list[dict[str, float | str]]:
    """Measure, print, and return the numbers of each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the tiny detector alone")
    parser.add_argument("--samples", type=int, default=20, help="noise samples")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args(args)
    prepare(options.threads, options.device)
    results = []
    cases = {"retinanet_tiny": tiny, "retinanet_R_50_FPN": lambda: plant("retinanet_R_50_FPN", 480, 640, 3, 96)}
    for name in list(cases)[:1] if options.quick else cases:
        with no_foreign_warnings():
            planted = cases[name]()
            detector = Detectron2Adapter(planted.model.to(options.device))
            with torch.no_grad():
                (found,) = detector.detect([planted.image.to(options.device)])
            sample = box_sample(planted.image, planted.boxes, found.labels[planted.indices].cpu())
            seconds: dict[bool, list[float]] = {True: [], False: []}
            for _ in range(options.rounds):
                for occlusion in seconds:
                    config = AuditConfig(
                        n_samples=options.samples, score_threshold=0.0, match_iou=0.0, occlusion=occlusion
                    )
                    start = clock(options.device)
                    audited = list(audit(detector, [sample], config, device=options.device))
                    seconds[occlusion].append(clock(options.device) - start)
        detected = sum(not item.missed for item in audited)
        ratios = [with_it / without for with_it, without in zip(seconds[True], seconds[False], strict=True)]
        size = "x".join(map(str, planted.image.shape[1:]))
        case = {"detector": name, "image": size, "objects": detected}
        results.append(case | {"seconds": min(seconds[False]), "added": [ratio - 1 for ratio in ratios]})
    table = Table(title=f"{machine(options.device)}, {options.samples} noise samples")
    for column in ("detector", "image", "objects", "seconds without", "added by hiding pixels", "lowest to highest"):
        table.add_column(column)
    for row in results:
        added = row["added"]
        spread = f"{min(added):.1%} to {max(added):.1%}"
        cells = (row["detector"], row["image"], str(row["objects"]), f"{row['seconds']:.1f}")
        table.add_row(*cells, f"{statistics.median(added):.1%}", spread)
    Console(width=140).print(table)
    return results


if __name__ == "__main__":
    main()
