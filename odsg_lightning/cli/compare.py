"""``odsg compare``."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from odsg_lightning.cli.detectors import CHECKPOINT, add_audit_set_files, add_detector, add_own_module, add_processes
from odsg_lightning.names import EXPLAINERS

_QUICK: dict[str, int] = {"steps": 10, "n_samples": 5, "n_masks": 250, "max_images": 16}
"""What ``--quick`` sets, unless it is given."""


def add(subcommands: Any) -> None:
    """Describe the subcommand."""
    parser = subcommands.add_parser(
        "compare",
        help="explainers side by side on one audit set: where their maps lie, what hiding pixels says, what they cost",
        description="Explains the same anchors or regions by every explainer and measures every map alike. Writes "
        "comparison.json, comparison.md and comparison.html.",
    )
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="checkpoint", help=CHECKPOINT)
    parser.add_argument("--audit-set", type=Path, required=True, help="of `odsg audit-set`")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="for the results")
    what = parser.add_argument_group("what is compared")
    what.add_argument("--explainers", nargs="+", metavar="NAME", help=f"of {', '.join(EXPLAINERS)} (default: all)")
    what.add_argument("--layer", help="of those that look at one, such as res5 or all (default: level)")
    what.add_argument("--box-maps", action="store_true", help="maps of the box of all explainers that can make them")
    what.add_argument("--n-samples", type=int, help="noisy copies of SmoothGrad (default: 20)")
    what.add_argument("--n-masks", type=int, help="masked copies of D-RISE (default: 5000)")
    how = parser.add_argument_group("how")
    how.add_argument("--steps", type=int, help="of deletion and insertion (default: 50)")
    how.add_argument("--no-deletion", action="store_true", help="leave both out: most of the time")
    how.add_argument("--max-images", type=int, metavar="N", help="the first N images of the audit set (default: all)")
    how.add_argument(
        "--quick", action="store_true", help=", ".join(f"--{name.replace('_', '-')} {n}" for name, n in _QUICK.items())
    )
    how.add_argument("--score-threshold", type=float, default=0.5, help="objects detected with more (default: 0.5)")
    how.add_argument("--seed", type=int, default=0, help="of noise and masks (default: 0)")
    add_processes(how, "share the images out to N GPUs or processes (default: 1 GPU, or one a core, at most 8)")
    how.add_argument("--restart", action="store_true", help="begin again, whatever an earlier call has finished")
    files = parser.add_argument_group("files")
    add_audit_set_files(files)
    add_detector(files, with_audit_set=True)
    add_own_module(files)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    import warnings

    from rich.console import Console

    from odsg_lightning.checkpoints.compare import compare_checkpoints
    from odsg_lightning.checkpoints.launch import is_first, told_once
    from odsg_lightning.comparison.loop import CompareConfig
    from odsg_lightning.comparison.methods import make_methods
    from odsg_lightning.comparison.page import comparison_page
    from odsg_lightning.comparison.result import comparison_json
    from odsg_lightning.comparison.summary import summary
    from odsg_lightning.comparison.tables import markdown_text, notes, terminal_table
    from odsg_lightning.files import write_text

    warnings.filterwarnings("ignore", message=".*torch.meshgrid")  # PyTorch's, of Detectron2's code
    given = {name: getattr(options, name) for name in _QUICK}
    chosen = {name: _QUICK[name] if options.quick and value is None else value for name, value in given.items()}
    steps = None if options.no_deletion else 50 if chosen["steps"] is None else chosen["steps"]
    methods = make_methods(
        options.explainers,
        n_samples=chosen["n_samples"],
        n_masks=chosen["n_masks"],
        layer=options.layer,
        box_maps=options.box_maps,
    )
    processes = (options.devices, options.num_nodes)
    with told_once(*processes):
        comparison = compare_checkpoints(
            options.checkpoints,
            options.audit_set,
            options.output,
            methods,
            CompareConfig(steps, options.score_threshold, seed=options.seed),
            detector_config=options.config,
            num_classes=options.num_classes,
            annotations=options.annotations,
            images=options.images,
            max_images=chosen["max_images"],
            device=options.device,
            trust=options.trust,
            own_module=options.module,
            restart=options.restart,
            devices=options.devices,
            num_nodes=options.num_nodes,
            on_image=_Progress(),
        )
    if not is_first(*processes):
        return 0
    summaries = [summary(result) for result in comparison.checkpoints]
    write_text(options.output / "comparison.json", comparison_json(comparison))
    write_text(options.output / "comparison.md", markdown_text(comparison, summaries))
    write_text(options.output / "comparison.html", comparison_page(comparison, summaries))
    console = Console()
    for result, rows in zip(comparison.checkpoints, summaries, strict=True):
        if result.objects:
            console.print(terminal_table(comparison, result, rows))
        for note in notes(comparison, result):
            console.print(note, markup=False, highlight=False)
    console.print(f"Written: {options.output}/comparison.html, .md, .json", markup=False, highlight=False)
    return 0


class _Progress:
    """Prints a line after the first image, and then once a minute."""

    def __init__(self) -> None:
        self._printed = 0.0

    def __call__(self, name: str, done: int, of: int) -> None:
        now = time.monotonic()
        if done in (1, of) or now - self._printed >= 60:
            self._printed = now
            print(f"{name}: {done} of {of} images", file=sys.stderr, flush=True)
