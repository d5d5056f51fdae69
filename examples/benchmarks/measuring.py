"""Clock, counter of floating-point operations, memory and machine."""

import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def clock(device: str) -> float:
    """Return the seconds, once everything that was asked of the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def prepare(threads: int, device: str, tf32: bool = False) -> None:
    """Set what timings depend on: the number of threads, and whether a GPU rounds to TF32, by default not."""
    torch.set_num_threads(threads)
    if device == "cuda":
        if not torch.cuda.is_available():
            raise SystemExit("Expected a CUDA device for --device cuda, but torch sees none.")
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32


def machine(device: str) -> str:
    """Return one line about the machine."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    tf32 = "on" if torch.backends.cudnn.allow_tf32 else "off"
    gpu = f", {torch.cuda.get_device_name()} (CUDA {torch.version.cuda}, TF32 {tf32})" if device == "cuda" else ""
    threads = torch.get_num_threads()
    return f"{model}{gpu}, {threads} thread{'s' if threads > 1 else ''}, torch {torch.__version__}, device {device}"


class ConvolutionPeak:
    """What a large convolution reaches on the same device, measured again in every round."""

    def __init__(self, device: str) -> None:
        """Make a layer of RetinaNet's head at 800x1344."""
        generator = torch.Generator().manual_seed(0)
        self._device = device
        self._image = torch.randn(1, 256, 100, 168, generator=generator).to(device)
        self._weight = torch.randn(256, 256, 3, 3, generator=generator).to(device)
        self._rates: list[float] = []
        self._convolve()

    @torch.no_grad()
    def _convolve(self) -> float:
        start = clock(self._device)
        functional.conv2d(self._image, self._weight, padding=1)
        return clock(self._device) - start

    def measure(self) -> None:
        """Take one more measurement."""
        self._rates.append(2 * 256 * 256 * 9 * 100 * 168 / self._convolve() / 1e9)

    @property
    def gflops(self) -> float:
        """Median, in 1e9 operations per second; a multiplication and an addition are two."""
        return statistics.median(self._rates)


class OperationCounter(TorchDispatchMode):
    """Counts the operations of convolutions and matrix products, with the formulas of torch's FlopCounterMode.

    Not FlopCounterMode itself: its module tracker refuses ``autograd.grad`` by the input of a module.
    """

    def __init__(self) -> None:
        """Start at zero."""
        super().__init__()
        self._operations = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and count it."""
        result = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self._operations += formula(*args, **(kwargs or {}), out_val=result)
        return result

    def read(self) -> float:
        """Return the operations so far."""
        return self._operations


def peak_memory_mib(saved_case: Path, variant: str, threads: int) -> float:
    """Return the peak memory of a variant above that of a forward pass without a graph, in MiB, on the CPU.

    Measured in a process of its own, as a process does not give back all that it once needed.

    Raises:
        RuntimeError: the process failed; with what it wrote.
    """
    script = Path(__file__).with_name("peak_memory.py")
    command = [sys.executable, str(script), str(saved_case), variant, str(threads)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"Measuring the memory of {variant} failed:\n{finished.stderr}")
    return float(json.loads(finished.stdout.splitlines()[-1]))
