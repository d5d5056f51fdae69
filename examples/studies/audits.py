"""Audit every detector of the study on the pictures that it is compared on, as ``odsg audit`` does.

    python examples/studies/audits.py --data shapes

One record for each detector and set of pictures; what is there already is left alone. ``table.py`` reads them.
"""

from collections.abc import Sequence

import torch
from pictures import audit_set, not_yet_in, options

from odsg_lightning import DetectionModule, resolve_adapter
from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.isolation import isolated
from odsg_lightning.audit.loop import audit
from odsg_lightning.audit.measure import fingerprint, object_row
from odsg_lightning.demo.recipe import no_foreign_warnings
from odsg_lightning.files import sha256_of_json
from odsg_lightning.records.provenance import provenance
from odsg_lightning.records.record import AuditRecord, write_record

CONFIG = AuditConfig(n_samples=5, max_objects_per_image=3)
"""Five noise samples: their maps correlate 0.97 with those of many."""


def main(args: Sequence[str] | None = None) -> None:
    """Audit what is missing."""
    parser = options(__doc__)
    parser.add_argument("--half", choices=("decide", "report"), nargs="+", default=["decide", "report"])
    parser.add_argument("--images", type=int, default=32, help="of each set")
    arguments = parser.parse_args(args)
    torch.set_num_threads(1)
    count = arguments.images
    for checkpoint, cue, target in not_yet_in(arguments.output / "audits", arguments):
        samples = audit_set(arguments.output, arguments.data, cue, arguments.bccd, count)
        module = DetectionModule.load_from_checkpoint(checkpoint, map_location="cpu")
        with no_foreign_warnings(), isolated(module):
            rows = [object_row(item) for item in audit(resolve_adapter(module), samples, CONFIG)]
        told = fingerprint(sha256_of_json([arguments.data, cue, count]), CONFIG)
        ordered = tuple(sorted(rows, key=lambda row: row.key))
        write_record(AuditRecord(told, provenance(checkpoint), ordered), target)
        print(f"{target.stem}: {sum(not row.missed for row in rows)} of {len(rows)} objects", flush=True)


if __name__ == "__main__":
    main()
