"""Which pictures each detector of the study is audited on, and what of that is still to be done."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from detectors import HONEST, PLAN, Trained
from marks import KINDS, Kind
from scenes import PHOTO_KINDS, write_audited

from odsg_lightning.data.audit_samples import make_audit_samples
from odsg_lightning.data.coco import read_coco
from odsg_lightning.types import AuditSample

_FEW = 3  # honest detectors that are measured on the pictures of every kind of cue; the others on two kinds


def audited_on(detector: Trained) -> list[str]:
    """Name the sets of pictures that a detector is audited on: without marks, and with those it is compared on."""
    kinds: tuple[Kind, ...] = KINDS if detector.data == "shapes" else PHOTO_KINDS
    if detector.group == HONEST:
        every = detector.data == "photos" or (detector.architecture == "retinanet" and detector.seed < 2 * _FEW)
        return [
            "none",
            *(kinds if every else ("frames", "dot") if detector.architecture != "retinanet" else ("frames",)),
        ]
    if detector.group in ("tuned", "recovered"):
        return ["none", "frames"]
    return [detector.cue]


def audit_set(output: Path, data: str, cue: str, bccd: Path, count: int) -> list[AuditSample]:
    """Load the audited pictures."""
    folder = write_audited(output / "data", data, cue, bccd)
    coco = read_coco(folder / "coco.json", folder / "images", bad_records="error", segmentations=data == "shapes")
    size, most = (128, 128) if data == "shapes" else (240, 320)
    masks = "segmentation" if data == "shapes" else "box"
    return make_audit_samples(coco, count=count, seed=0, masks=masks, min_size=size, max_size=most)


def options(description: str | None) -> argparse.ArgumentParser:
    """Return what the scripts have in common that work through the detectors."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("shapes", "photos"), required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/study"))
    parser.add_argument("--bccd", type=Path, default=Path("bccd"), help="annotations/ and images/ of the blood cells")
    return parser


def not_yet_in(folder: Path, arguments: argparse.Namespace) -> Iterator[tuple[Path, str, Path]]:
    """Yield each trained checkpoint with a set of pictures, and the file in ``folder`` that is to hold what it gives.

    Args:
        folder: made if missing; what is in there is left alone.
        arguments: of :func:`options`, and ``half``: one or several.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for detector in PLAN.values():
        if detector.data != arguments.data or detector.half not in arguments.half:
            continue
        for name in detector.checkpoints:
            checkpoint = arguments.output / "checkpoints" / f"{name}.ckpt"
            for cue in audited_on(detector) if name == detector.name else ["none"]:
                target = folder / f"{name}--{cue}.json"
                if checkpoint.exists() and not target.exists():
                    yield checkpoint, cue, target
