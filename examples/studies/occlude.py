"""Measure what each detector still says under every replacement and margin: which of them tell honest from bad?

    python examples/studies/occlude.py --data shapes --half decide

One JSON file for each detector and each audited set of pictures; what is there already is left alone.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from detectors import HONEST, PLAN, Trained
from marks import KINDS, Kind
from scenes import PHOTO_KINDS, write_audited

from odsg_lightning import DetectionModule, resolve_adapter
from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.loop import audited_indices, pair_detections
from odsg_lightning.data.audit_samples import make_audit_samples
from odsg_lightning.data.coco import read_coco
from odsg_lightning.demo.recipe import no_foreign_warnings
from odsg_lightning.occlusion.evidence import detected_again
from odsg_lightning.occlusion.replacements import REPLACEMENTS, replaced
from odsg_lightning.saliency.masks import grown, object_size
from odsg_lightning.types import AuditSample

MARGINS = (1.0, 2.0, 4.0, 0.1)
"""In pixels; below 1, in shares of the object's size."""

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


def margin_pixels(margin: float, size: float) -> float:
    """Return a margin in pixels."""
    return margin if margin >= 1 else margin * size


def grown_box(sample: AuditSample, index: int, pixels: float) -> torch.Tensor:
    """Return the pixels ``[H, W]`` of an object's box, grown."""
    x_min, y_min, x_max, y_max = sample.boxes[index].tolist()
    rows, columns = torch.arange(sample.image.shape[1]) + 0.5, torch.arange(sample.image.shape[2]) + 0.5
    inside_y = (rows > y_min - pixels) & (rows < y_max + pixels)
    return inside_y[:, None] & ((columns > x_min - pixels) & (columns < x_max + pixels))


def measure(checkpoint: Path, samples: list[AuditSample], per_image: int) -> list[dict[str, object]]:
    """Return, for each detected object, what is still detected under each replacement and margin."""
    detector = resolve_adapter(DetectionModule.load_from_checkpoint(checkpoint, map_location="cpu").eval())
    rows: list[dict[str, object]] = []
    for position, sample in enumerate(samples):
        (reference,) = detector.detect([sample.image])
        pairs, _ = pair_detections(sample, reference, AuditConfig(score_threshold=0.3))
        other = samples[(position + 1) % len(samples)].image
        for index in audited_indices(sample, per_image):
            row: dict[str, object] = {"image": sample.image_id, "annotation": sample.annotation_ids[index]}
            match = int(pairs[index])
            rows.append(row)
            if match < 0:
                continue
            mask, one = sample.masks[index], reference[match]
            size = object_size(mask)
            row |= {"label": int(one.labels), "score": round(float(one.scores), 5), "size": round(size, 1)}
            names, images = [], []
            for margin in MARGINS:
                pixels = margin_pixels(margin, size)
                holes = {"keep": ~grown(mask, pixels), "hide": grown_box(sample, index, pixels)}
                for way, hole in holes.items():
                    for replacement in REPLACEMENTS if way == "keep" else ("inpaint", "blur"):
                        names.append(f"{way}/{replacement}/{margin:g}")
                        images.append(replaced(sample.image, hole, replacement, sigma=0.25 * size, other=other))
            again = (detected_again(one, found) for found in detector.detect(images))
            row |= {
                name: [round(found.score, 5), round(found.iou, 4)] for name, found in zip(names, again, strict=True)
            }
    return rows


def main(args: Sequence[str] | None = None) -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("shapes", "photos"), required=True)
    parser.add_argument("--half", choices=("decide", "report"), required=True)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--output", type=Path, default=Path("runs/study"))
    parser.add_argument("--bccd", type=Path, default=Path("bccd"), help="annotations/ and images/ of the blood cells")
    arguments = parser.parse_args(args)
    torch.set_num_threads(1)
    folder = arguments.output / "occluded"
    folder.mkdir(parents=True, exist_ok=True)
    for detector in PLAN.values():
        if detector.data != arguments.data or detector.half != arguments.half:
            continue
        for name in detector.checkpoints:
            checkpoint = arguments.output / "checkpoints" / f"{name}.ckpt"
            for cue in audited_on(detector) if name == detector.name else ["none"]:
                target = folder / f"{name}--{cue}.json"
                if target.exists() or not checkpoint.exists():
                    continue
                samples = audit_set(arguments.output, arguments.data, cue, arguments.bccd, arguments.images)
                with torch.no_grad(), no_foreign_warnings():
                    rows = measure(checkpoint, samples, per_image=3)
                unfinished = target.with_suffix(".partial")
                unfinished.write_text(json.dumps(rows), encoding="utf-8")
                os.replace(unfinished, target)
                print(f"{target.stem}: {sum('score' in row for row in rows)} of {len(rows)} objects", flush=True)


if __name__ == "__main__":
    main()
