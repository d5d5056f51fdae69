"""``odsg sanity``."""

import argparse
from pathlib import Path
from typing import Any

from odsg_lightning.cli.detectors import CHECKPOINT, add_audit_set_files, add_detector
from odsg_lightning.cli.explainers import add_explainer, explainer_asked_for

_CHECK = (
    "config", "num_classes", "annotations", "images", "device", "trust", "score_threshold", "max_objects", "seed",
)  # fmt: skip
"""Options that are arguments by the same name."""


def add(subcommands: Any) -> None:
    """Describe the subcommand."""
    parser = subcommands.add_parser(
        "sanity",
        help="do an explainer's maps depend on what the detector has learned?",
        description="Randomises the detector's weights stage by stage, from its outputs down, and compares the maps of "
        "the same anchors or regions with those of the trained one (Adebayo et al., 2018).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help=CHECKPOINT)
    parser.add_argument("--audit-set", type=Path, required=True, help="of `odsg audit-set`: its images are used")
    parser.add_argument("-o", "--output", type=Path, help="folder for sanity.json, sanity.md and sanity.png")
    add_explainer(parser, "smoothgrad", with_smoothgrads=True)
    parser.add_argument("--score-threshold", type=float, default=0.5, help="detections that score above this")
    parser.add_argument("--max-objects", type=int, default=3, help="the best so many of an image")
    parser.add_argument("--seed", type=int, default=0, help="of the permuted weights and of the noise")
    add_audit_set_files(parser)
    add_detector(parser, with_audit_set=True)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    import warnings

    from rich.console import Console

    from odsg_lightning.checkpoints.sanity import check_checkpoint, write_check
    from odsg_lightning.sanity.outputs import sanity_table, verdict

    warnings.filterwarnings("ignore", message=".*torch.meshgrid")  # PyTorch's, of Detectron2's code
    check, settings = check_checkpoint(
        options.checkpoint,
        options.audit_set,
        explainer_asked_for(options),
        **{name: getattr(options, name) for name in _CHECK},
    )
    title = f"{options.explainer} on {options.checkpoint.name}: {check.n_objects} detections in {check.n_images} images"
    if options.output is not None:
        write_check(check, settings, options.output, title)
    console = Console()
    if check.stages:
        console.print(sanity_table(check, title))
    console.print(verdict(check), soft_wrap=True, markup=False, highlight=False)
    if options.output is not None:
        console.print(f"Written: {options.output}", soft_wrap=True, markup=False, highlight=False)
    return 0
