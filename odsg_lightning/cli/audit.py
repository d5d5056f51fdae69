"""``odsg audit-set`` and ``odsg audit``."""

import argparse
import math
import os
import sys
from pathlib import Path
from typing import Any, get_args

from odsg_lightning.audit.config import AuditConfig, Target  # loads the standard library alone
from odsg_lightning.cli.detectors import CHECKPOINT, add_audit_set_files, add_detector, add_own_module, add_processes
from odsg_lightning.cli.explainers import add_explainer
from odsg_lightning.errors import UserInputError
from odsg_lightning.saliency.options import Engine, Precision

_NUMBERS = {
    "n-samples": (int, "noise samples of SmoothGrad"),
    "sigma": (float, "standard deviation of the noise, relative to the pixel range"),
    "seed": (int, "of the noise"),
    "score-threshold": (float, "a detection must score above this to be paired with an object"),
    "pair-iou": (float, "least IoU of a detection with its object"),
    "match-iou": (float, "least IoU of a detection in a noise sample with the one in the clean image"),
    "blur-sigma": (float, "blur before binarising a map, in pixels"),
    "threshold": (float, "share of a map's maximum above which a pixel is foreground"),
    "near-threshold": (float, "the same for IOF near"),
    "near-margin": (float, "by how much an object grows for near, as a share of its size"),
    "sufficiency-margin": (
        float,
        "how far around an object pixels stay when all others are hidden, in shares of its size",
    ),
    "necessity-margin": (float, "how far around an object's box pixels are hidden with it, in shares of its size"),
    "max-objects-per-image": (int, "audit only so many objects of an image, balanced over the classes"),
    "tolerance": (float, "stop adding samples for an object when its maps change less than this"),
    "trim": (float, "leave out the rim of a gradient's reach that holds less than this share of it: approximate"),
}
"""Settings of an audit, with their type and what they mean; AuditConfig has the defaults."""


_CHOICE = ("count", "seed", "image_ids", "masks", "min_size", "max_size", "bad_records")
"""Options of `audit-set` that are arguments of choose_audit_set by the same name."""


def add(subcommands: Any) -> None:
    """Describe the subcommands."""
    _add_audit_set(subcommands)
    _add_audit(subcommands)


def _add_audit_set(subcommands: Any) -> None:
    parser = subcommands.add_parser(
        "audit-set",
        help="choose the images of an audit once, balanced over the classes, and write them down with their hashes",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--annotations", type=Path, required=True, help="COCO file to choose from")
    parser.add_argument("--images", type=Path, required=True, help="folder of its images")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the audit set to write, .json")
    parser.add_argument("--count", type=int, default=16, help="number of images; fewer than 16 tell little")
    parser.add_argument("--seed", type=int, default=0, help="which images")
    parser.add_argument("--image-ids", type=int, nargs="+", metavar="ID", help="the images themselves, instead")
    parser.add_argument(
        "--masks", choices=["segmentation", "box"], default="segmentation", help="what maps must lie on"
    )
    parser.add_argument("--min-size", type=int, default=800, help="shorter edge as the detector sees an image, pixels")
    parser.add_argument("--max-size", type=int, default=1333, help="upper limit of the longer edge, pixels")
    parser.add_argument("--bad-records", choices=["error", "skip"], default="error", help="of the COCO file")
    parser.add_argument("--force", action="store_true", help="overwrite the output if it is there")
    parser.set_defaults(run=_run_audit_set)


def _add_audit(subcommands: Any) -> None:
    parser = subcommands.add_parser(
        "audit",
        help="audit a checkpoint on an audit set: which pixels carry each number, and which does a detection need?",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help=CHECKPOINT)
    parser.add_argument("--audit-set", type=Path, required=True, help="of `odsg audit-set`")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the record to write, .json")
    add_detector(parser, with_audit_set=True)
    add_own_module(parser)
    add_audit_set_files(parser)
    add_explainer(parser, AuditConfig.explainer)
    choices: dict[str, tuple[Any, str]] = {
        "target": (Target, "what is returned, the logit and unclipped box behind it, or those that fit each object"),
        "engine": (Engine, "how gradients are computed; same maps"),
        "precision": (Precision, "of the backward pass"),
    }
    for name, (kind, text) in choices.items():
        parser.add_argument(f"--{name}", choices=get_args(kind), default=getattr(AuditConfig, name), help=text)
    for name, (kind, text) in _NUMBERS.items():
        default = getattr(AuditConfig, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=kind, default=default, help=text)
    parser.add_argument("--no-occlusion", action="store_true", help="hide no pixels: no sufficiency, no necessity")
    shared_out = (
        "share the images out to so many GPUs, or processes of one thread, whatever their number: the same record"
    )
    add_processes(parser, shared_out)
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what your evaluation measured, for the report: --metric val/map=0.41 --metric val/map_50=0.62",
    )
    parser.add_argument("--no-maps", action="store_true", help="write the record only, not the maps beside it")
    parser.add_argument("--restart", action="store_true", help="begin again after an interruption")
    parser.set_defaults(run=_run_audit)


def _run_audit_set(options: argparse.Namespace) -> int:
    from rich.console import Console

    from odsg_lightning.data.audit_set_choice import choose_audit_set
    from odsg_lightning.records.audit_set import write_audit_set
    from odsg_lightning.records.tables import audit_set_table

    if options.output.exists() and not options.force:
        raise UserInputError(f"Expected {options.output} to be new, but it is there. Add --force to overwrite it.")
    chosen, objects = choose_audit_set(
        options.annotations,
        options.images,
        **{name: getattr(options, name) for name in _CHOICE},
    )
    write_audit_set(chosen, options.output)
    console = Console()
    console.print(audit_set_table(chosen, objects))
    console.print(f"Audit set: {options.output}", soft_wrap=True, markup=False, highlight=False)
    return 0


def _run_audit(options: argparse.Namespace) -> int:
    import warnings

    from rich.console import Console
    from rich.table import Table

    from odsg_lightning.checkpoints.audit import audit_checkpoint
    from odsg_lightning.checkpoints.launch import is_first, told_once
    from odsg_lightning.records.means import audit_means, trim_extremes
    from odsg_lightning.records.tables import count_rows, iof_table
    from odsg_lightning.text import number

    numbers = {name.replace("-", "_"): getattr(options, name.replace("-", "_")) for name in _NUMBERS}
    metrics = dict(_metric(text) for text in options.metric)
    chosen = ("explainer", "explainer_settings", "target", "engine", "precision")
    choices = {name: getattr(options, name) for name in chosen}
    config = AuditConfig(occlusion=not options.no_occlusion, **choices, **numbers)
    processes = (options.devices, options.num_nodes)
    if options.trust and is_first(*processes):
        print(
            f"--trust: {options.checkpoint} is read with Python's own pickle, which runs whatever code it names. "
            "Lifted are PyTorch's weights_only and the restricted reader of .pkl files.",
            file=sys.stderr,
        )
    if options.module is not None and options.trust:
        sys.path.insert(0, os.getcwd())  # as `python -m` does
    warnings.filterwarnings("ignore", message=".*torch.meshgrid")  # PyTorch's, of Detectron2's code
    with told_once(*processes):
        record = audit_checkpoint(
            options.checkpoint,
            options.audit_set,
            options.output,
            config,
            detector_config=options.config,
            num_classes=options.num_classes,
            annotations=options.annotations,
            images=options.images,
            metrics=metrics,
            device=options.device,
            with_maps=not options.no_maps,
            trust=options.trust,
            restart=options.restart,
            own_module=options.module,
            devices=options.devices,
            num_nodes=options.num_nodes,
        )
    if not is_first(*processes):
        return 0
    console, means = Console(), audit_means(record.objects)
    console.print(iof_table(means, f"What {options.checkpoint.name} looks at"))
    counts = Table(show_header=False)
    for row in count_rows(means):
        counts.add_row(*row)
    if any(row.trimmed for row in record.objects):
        left_out, *apart = (number(value, 4) for value in trim_extremes(record.objects).values())
        counts.add_row("trimmed", f"{left_out} left out at most; checked: correlation {apart[0]}, IOF {apart[1]} apart")
    console.print(counts)
    beside = "" if record.maps is None else f", with {record.maps['file']}"
    console.print(f"Record: {options.output}{beside}", soft_wrap=True, markup=False, highlight=False)
    return 0


def _metric(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (name and equals and abs(number) <= 1e300):  # NaN is neither; larger ones are in no record
        raise UserInputError(f"Expected --metric to be NAME=VALUE with a finite number, but got {text!r}.")
    return name, number
