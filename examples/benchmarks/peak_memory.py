"""Peak memory of one variant; on the CPU run by :func:`measuring.peak_memory_mib` in a fresh process."""

import json
import sys
from pathlib import Path

import torch
from case import Case
from measuring import clock, prepare
from variants import VARIANTS


def peak_mib(device: str) -> float:
    """Return the most memory that this process has held at once: resident on the CPU, allocated on a GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")  # only Linux tells the peak of one program, free of what its parent held before
    line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def mib_above_forward(case: Case, variant: str, device: str) -> float:
    """Return the peak of a variant above that of a forward pass without a graph."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with torch.no_grad():
        case.detector.detect([case.image])
    forward = peak_mib(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    VARIANTS[variant](case, lambda: clock(device))
    return peak_mib(device) - forward


def main(saved_case: str, variant: str, threads: str) -> None:
    """Print it, on the CPU, where each variant has a fresh process: one does not give back all that it once needed."""
    prepare(int(threads), "cpu")
    planted = torch.load(saved_case, weights_only=False)  # a whole module, from the benchmark's own temporary folder
    print(json.dumps(mib_above_forward(Case(planted, outputs=1), variant, "cpu")))


if __name__ == "__main__":
    main(*sys.argv[1:])
