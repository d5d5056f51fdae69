"""Does the gate let good detectors pass and refuse bad ones? Real trainings and audits, not simulated records.

    python examples/benchmarks/gate_real.py --repetitions 10

Trains detectors that have to look at the shapes ("clean") and detectors that can read annotation frames ("shortcut"),
as `odsg demo --shortcut` does, with a seed of their own each; checkpoints and audits in --output are used again. Then

- *same*: two audits of one clean detector under different seeds of the noise; should pass;
- *shortcut*: a detector with the shortcut against the first clean one; should be refused;
- *retrained*: another clean detector against the first one: what the gate says of an honest retraining;
- with --clean 4 or more: the same with margins from three of them, as `odsg calibrate --retrained` proposes.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from measuring import machine
from rich.console import Console
from rich.table import Table

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.checkpoints.audit import audit_checkpoint
from odsg_lightning.data.audit_set_choice import choose_audit_set
from odsg_lightning.demo.recipe import no_foreign_warnings
from odsg_lightning.demo.shortcut_models import STEPS, Kind, ShortcutData, ap50, make_shortcut_data, train
from odsg_lightning.gate import GateResult, compare
from odsg_lightning.gate.calibrate import calibrate, calibrated_config
from odsg_lightning.records.audit_set import write_audit_set
from odsg_lightning.records.record import AuditRecord, read_record
from odsg_lightning.text import number

_AUDIT_IMAGES = 24
_TRAININGS = 3  # from which margins are calibrated


class Models:
    """Trained detectors and their audits, made when they are asked for and kept in a folder."""

    def __init__(self, folder: Path, steps: int, images: int, val_images: int, devices: int | None = None) -> None:
        """Make the data, and choose what is audited, by how many devices."""
        folder.mkdir(parents=True, exist_ok=True)
        self.devices = devices
        self.data: ShortcutData = make_shortcut_data(folder / "data", seed=0, n_train=images, n_val=val_images)
        self.folder, self.steps, self.audit_set = folder / f"{steps}-steps", steps, folder / "audit_set.json"
        self.folder.mkdir(exist_ok=True)
        shapes = self.data.at_boxes
        chosen, _ = choose_audit_set(shapes.val_annotations, shapes.val_images, count=_AUDIT_IMAGES, min_size=128)
        write_audit_set(chosen, self.audit_set)
        self.audited = len(chosen.images)

    def checkpoint(self, kind: Kind, seed: int) -> Path:
        """Return a trained detector."""
        path = self.folder / f"{kind}-{seed}.ckpt"
        if not path.exists():
            module = train(kind, self.data, path, seed, self.steps)
            print(f"{path.name}: AP50 {ap50(module, self.data.at_boxes):.3f}", flush=True)
        return path

    def checkpoints(self, kind: Kind, count: int) -> list[Path]:
        """Return so many of them, by their seeds from 0."""
        return [self.checkpoint(kind, seed) for seed in range(count)]

    def audit(self, kind: Kind, seed: int, noise: int = 0) -> AuditRecord:
        """Return an audit of a detector under a seed of the noise."""
        path = self.folder / "audits" / f"{kind}-{seed}-noise-{noise}.json"
        if not path.exists():
            checkpoint, config = self.checkpoint(kind, seed), AuditConfig(seed=noise)
            audit_checkpoint(checkpoint, self.audit_set, path, config, with_maps=False, devices=self.devices)
        return read_record(path)


def main(args: Sequence[str] | None = None) -> dict[str, dict[str, GateResult]]:
    """Print a table and return, for each case, what the gate said of each candidate."""
    options = _parse(args)
    same, shortcut, retrained = {}, {}, {}
    with no_foreign_warnings():
        models = Models(options.output, options.steps, options.images, options.val_images, options.devices)
        baseline = models.audit("clean", 0)
        for index in range(options.repetitions):
            seed, noise = index % options.clean, (2 * index + 1, 2 * index + 2)
            first, second = (models.audit("clean", seed, one) for one in noise)
            same[f"clean {seed}, noise {noise[0]} and {noise[1]}"] = compare(first, second, ignore_seed=True)
            shortcut[f"shortcut {index}"] = compare(baseline, models.audit("shortcut", index))
        for seed in range(1, options.clean):
            retrained[f"clean {seed}"] = compare(baseline, models.audit("clean", seed))
        if options.clean > _TRAININGS:
            _print_calibrated(models, options.clean, options.repetitions)
    results = {"same": same, "shortcut": shortcut, "retrained": retrained}
    _print(results, f"{options.steps} steps, {models.audited} audit images; {machine('cpu')}")
    return results


def _print_calibrated(models: Models, clean: int, shortcuts: int) -> None:
    """Say what margins from each three of the clean detectors make of the other clean ones, and of the shortcut."""
    found: dict[str, Counter[str]] = {"other clean detectors": Counter(), "shortcut": Counter()}
    for seeds in combinations(range(clean), _TRAININGS):
        accepted = {str(seed): models.audit("clean", seed) for seed in seeds}
        config = calibrated_config(calibrate(accepted, retrained=True))
        others = [models.audit("clean", seed) for seed in range(clean) if seed not in seeds]
        broken = [models.audit("shortcut", index) for index in range(shortcuts)]
        for baseline in accepted.values():
            for name, candidates in zip(found, (others, broken), strict=True):
                found[name].update(compare(baseline, candidate, config).verdict for candidate in candidates)
    for name, counts in found.items():
        told = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
        print(f"with margins of `odsg calibrate --retrained` from {_TRAININGS} clean detectors, {name}: {told}")


def _print(results: dict[str, dict[str, GateResult]], title: str) -> None:
    console, table = Console(), Table(title=title)
    for name in ("case", "candidate", "iof/object", "change", "verdict"):
        table.add_column(name)
    for case, of_case in results.items():
        for candidate, result in of_case.items():
            looked = next(check for check in result.checks if check.name == "iof/object")
            failed = [check.name for check in result.checks if check.verdict == "fail" and check.level == "error"]
            iof = f"{number(looked.baseline)} -> {number(looked.candidate)}"
            change = f"{number(looked.lower, signed=True)} to {number(looked.upper, signed=True)}"
            verdict = f"{result.verdict}: {', '.join(failed)}" if failed else result.verdict
            table.add_row(case, candidate, iof, change, verdict)
        table.add_section()
    console.print(table)
    for case, of_case in results.items():
        counts = Counter(result.verdict for result in of_case.values())
        console.print(f"{case}: {', '.join(f'{count} {verdict}' for verdict, count in counts.items())}")


def _parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=10, help="detectors with the shortcut, and pairs of audits")
    parser.add_argument("--clean", type=int, default=3, help="clean detectors, among which the pairs are shared out")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each training")
    parser.add_argument("--images", type=int, default=1000, help="training images")
    parser.add_argument(
        "--val-images", type=int, default=100, help=f"validation images, of which {_AUDIT_IMAGES} are audited"
    )
    parser.add_argument("--devices", type=int, help="that share the images of an audit out: the same records")
    parser.add_argument("--output", type=Path, default=Path("runs/gate-real"), help="folder for everything")
    return parser.parse_args(args)


if __name__ == "__main__":
    main()
