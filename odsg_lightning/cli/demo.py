"""``odsg demo``."""

import argparse
from pathlib import Path
from typing import Any

_ENGINES = ("auto", "windowed", "cut", "autograd")  # of saliency/options.py


def add(subcommands: Any) -> None:  # noqa: ANN401 - argparse's type is private
    """Describe the subcommand."""
    parser = subcommands.add_parser(
        "demo",
        help="fine-tune and audit a small detector on generated shapes, in minutes on a CPU",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--detector", choices=["retinanet", "faster-rcnn"], default="retinanet", help="what to train")
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder for data, logs and pictures")
    parser.add_argument("--seed", type=int, default=0, help="of the data, the weights and the training")
    parser.add_argument("--engine", choices=_ENGINES, default="auto", help="how the audit computes its gradients")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from odsg_lightning.demo.run import run_demo

    return run_demo(detector=options.detector, output=options.output, seed=options.seed, engine=options.engine)
