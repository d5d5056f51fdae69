"""What the saliency benchmark prints."""

import argparse
import math
import sys
from collections.abc import Sequence
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from variants import N_MASKS, TRIM

_CONSOLE = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
_PROGRESS = Console(stderr=True, highlight=False, soft_wrap=True)
_SAMPLES = 20  # noise samples of one ODSmoothGrad map, the default

LABELS = {
    "backward": "plain backward()",
    "autograd": "plain autograd.grad",
    "stacked": "the same, outputs stacked",
    "captum": "captum, loop over outputs",
    "drise": f"D-RISE, {N_MASKS} masks",
    "cut": "cut",
    "cut-logits": "cut, of logits",
    "windowed": "windowed",
    "windowed-logits": "windowed, of logits",
    "windowed-bf16": "windowed, bf16",
    "windowed-trimmed": "windowed, trimmed",
    "windowed-trimmed-bf16": "windowed, trimmed, bf16",
    "windowed-16": "windowed, 16 samples",
    "windowed-trimmed-bf16-16": "the same, trimmed, bf16",
}


def note(text: str) -> None:
    """Say on stderr how far the benchmark is."""
    _PROGRESS.print(text, markup=False)


def title(machine: str, options: argparse.Namespace) -> None:
    """Print what was measured, and how the networks were made well-behaved."""
    _CONSOLE.print(
        f"""
Five gradients (x_min, y_min, x_max, y_max, score) of one object in one noisy picture, with its share of the forward
pass. {machine}. {options.rounds} rounds, all variants of a case in turn.

There are no weights here. The networks are random but well-behaved: BatchNorm statistics from the picture, then frozen;
damped residual branches; the last linear layers solved in closed form, so that the shapes in the picture are detected
with scores of about 0.9 and found again under noise (examples/benchmarks/planted.py). Times do not depend on weights.
""",
        markup=False,
    )


def saliency_table(results: Sequence[dict[str, Any]]) -> None:
    """Print one row per case and variant."""
    table = Table()
    for name, justify in (
        ("variant", "left"),
        ("s / object", "right"),
        ("x autograd", "right"),
        ("(min..max)", "right"),
        ("MiB", "right"),
        ("fwd/head/back %", "right"),
        ("GFLOP", "right"),
        ("GFLOP/s", "right"),
        ("max, rms diff.", "right"),
    ):
        table.add_column(name, justify=justify, no_wrap=True)
    for result in results:
        heading = "{detector} {image}, {objects} of {object_size} px".format(**result)
        table.add_section()
        if "skipped" in result:
            table.add_row(f"[bold]{heading}[/]", "do not fit")
            continue
        rate = result["convolution_gflops"]
        table.add_row(f"[bold]{heading}[/]", *[""] * 6, f"[dim]conv {rate:.0f}[/]")
        for name, variant in result["variants"].items():
            if "skipped" in variant:
                table.add_row(f"  {LABELS[name]}: not here", style="dim")
            else:
                table.add_row(*_row(name, variant, result["variants"].get("autograd", {}).get("seconds", [])))
    _CONSOLE.print(table)


def _row(name: str, variant: dict[str, Any], reference: Sequence[float]) -> list[str]:
    seconds = median(variant["seconds"])
    # D-RISE's masks explain an object for good; one noise sample of SmoothGrad is one of twenty.
    factor = _SAMPLES if name == "drise" else 1
    ratios = [factor * one / other for one, other in zip(reference, variant["seconds"], strict=False)]
    shares = [median(part) for part in zip(*variant["shares"], strict=True)]
    parts = "/".join("-" if math.isnan(part) else f"{100 * part / sum(shares):.0f}" for part in shares)
    return [
        f"  {LABELS[name]}",
        f"{seconds:.3g}" if seconds < 1000 else f"{seconds:.0f}",
        f"{median(ratios):.2f}" if ratios else "",
        f"{min(ratios):.2f}..{max(ratios):.2f}" if ratios else "",
        f"{variant['memory_mib']:.0f}" if "memory_mib" in variant else "",
        parts if name != "drise" else "100/-/-",
        f"{variant['gflop']:.0f}",
        f"{variant['gflop'] / seconds:.0f}",
        f"{variant['max_relative_difference']:.0e} {variant['rms_relative_difference']:.0e}"
        if "max_relative_difference" in variant
        else "",
    ]


def further_table(results: Sequence[dict[str, Any]]) -> None:
    """Print what one more object of the same picture costs."""
    table = Table(title="Windowed engine: cost of a further object, as a share of the first with the forward pass")
    for name in ("case", "median", "min..max"):
        table.add_column(name)
    for result in results:
        if shares := result.get("further"):
            case = "{detector} {image}, {objects} objects of {object_size} px".format(**result)
            table.add_row(case, f"{median(shares):.0%}", f"{min(shares):.0%}..{max(shares):.0%}")
    _CONSOLE.print(table)


def notes_below(results: Sequence[dict[str, Any]]) -> None:
    """Print what the columns mean, and what was scaled or extrapolated."""
    _CONSOLE.print(
        f"""x autograd: times faster than plain autograd.grad (parameters frozen) in the same round: median, range.
MiB: peak memory above that of a forward pass without a graph (CPU: in a fresh process); plain variants: for one output.
GFLOP: convolutions and matrix products per object (a multiplication and an addition are two); conv: GFLOP/s of one
  large convolution, measured between the variants.
diff.: of the worst gradient to plain autograd's: the largest relative to its largest value, and root mean square
  relative to its own. In float32 an exact engine still rounds in another way, and single ReLUs near zero flip: the
  tests compare in float64. bf16 and trimmed windows (trim={TRIM:g}) are approximate.
The plain variants are SCALED: some outputs were measured (backward, stacked and captum: two), and the others taken
  to cost the same. "Outputs stacked": boxes and scores in one tensor, so that zeros go back through the other subnet.
D-RISE is EXTRAPOLATED from 2 of its {N_MASKS} masked forward passes, which all objects of a picture share. It gives one
  map per object, not five, and needs no noise: its ratio is to {_SAMPLES} noise samples of plain autograd.""",
        markup=False,
    )
    for result in results:
        for name, variant in result["variants"].items():
            if "skipped" in variant:
                where = f"{result['detector']} {result['image']}"
                _CONSOLE.print(f"Not run: {LABELS[name]} on {where}: {variant['skipped']}", markup=False)
