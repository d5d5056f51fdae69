"""Measure what each detector still says under every replacement and margin: which of them tell honest from bad?

    python examples/studies/occlude.py --data shapes --half decide

One JSON file for each detector and each audited set of pictures; what is there already is left alone.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from pictures import audit_set, not_yet_in, options

from odsg_lightning import DetectionModule, resolve_adapter
from odsg_lightning.audit.choice import audited_indices, chosen_objects, listed_objects
from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.pairing import pair_detections
from odsg_lightning.demo.recipe import no_foreign_warnings
from odsg_lightning.files import write_text
from odsg_lightning.occlusion.evidence import detected_again
from odsg_lightning.occlusion.replacements import REPLACEMENTS, replaced
from odsg_lightning.saliency.masks import grown, grown_box, object_size
from odsg_lightning.types import AuditSample

MARGINS = (1.0, 2.0, 4.0, 0.1)
"""In pixels; below 1, in shares of the object's size."""


def measure(checkpoint: Path, samples: list[AuditSample], per_image: int) -> list[dict[str, object]]:
    """Return, for each detected object, what is still detected under each replacement and margin."""
    detector = resolve_adapter(DetectionModule.load_from_checkpoint(checkpoint, map_location="cpu").eval())
    objects = chosen_objects(listed_objects(samples), per_image)
    rows: list[dict[str, object]] = []
    for position, sample in enumerate(samples):
        (reference,) = detector.detect([sample.image])
        pairs, _ = pair_detections(sample, reference, AuditConfig(score_threshold=0.3))
        other = samples[(position + 1) % len(samples)].image
        for index in audited_indices(sample, objects):
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
                pixels = margin if margin >= 1 else margin * size
                holes = {"keep": ~grown(mask, pixels), "hide": grown_box(mask, pixels)}
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
    parser = options(__doc__)
    parser.add_argument("--half", choices=("decide", "report"), nargs=1, required=True)
    parser.add_argument("--images", type=int, default=24)
    arguments = parser.parse_args(args)
    torch.set_num_threads(1)
    for checkpoint, cue, target in not_yet_in(arguments.output / "occluded", arguments):
        samples = audit_set(arguments.output, arguments.data, cue, arguments.bccd, arguments.images)
        with torch.no_grad(), no_foreign_warnings():
            rows = measure(checkpoint, samples, per_image=3)
        write_text(target, json.dumps(rows))
        print(f"{target.stem}: {sum('score' in row for row in rows)} of {len(rows)} objects", flush=True)


if __name__ == "__main__":
    main()
