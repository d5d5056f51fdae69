"""``odsg demo``."""

import argparse
from pathlib import Path
from typing import Any, get_args

from odsg_lightning.errors import UserInputError
from odsg_lightning.saliency.options import Engine  # loads the standard library alone


def add(subcommands: Any) -> None:
    """Describe the subcommand."""
    parser = subcommands.add_parser(
        "demo",
        help="fine-tune and audit a small detector on generated shapes, in minutes on a CPU",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--shortcut",
        action="store_true",
        help="instead: two RetinaNets, one of them right for the wrong reason: AP50 prefers it, the gate refuses it",
    )
    parser.add_argument("--detector", choices=["retinanet", "faster-rcnn"], default="retinanet", help="what to train")
    parser.add_argument(
        "--output", type=Path, help="folder for data, logs and pictures; runs/demo or runs/demo-shortcut"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the data, the weights and the training")
    parser.add_argument(
        "--engine", choices=get_args(Engine), default="auto", help="how the audit computes its gradients"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if options.shortcut:
        if (options.detector, options.engine) != ("retinanet", "auto"):
            raise UserInputError("Expected --shortcut without --detector and --engine: it always trains RetinaNets.")
        from odsg_lightning.demo.shortcut import run_shortcut

        return run_shortcut(options.odsg, options.output or Path("runs/demo-shortcut"), options.seed)
    from odsg_lightning.demo.run import run_demo

    output = options.output or Path("runs/demo")
    return run_demo(detector=options.detector, output=output, seed=options.seed, engine=options.engine)
