"""Work that may fail, in one process of several: all get everything or learn of the failure, and training goes on."""

import traceback
import warnings
from collections.abc import Callable
from typing import Literal, TypeVar

import torch.distributed
from lightning.pytorch.strategies import Strategy

T = TypeVar("T")

OnError = Literal["warn", "raise"]


class FailedElsewhereError(RuntimeError):
    """Another process failed at its part."""


def run_on_all_ranks(strategy: Strategy, work: Callable[[], list[T]]) -> list[T]:
    """Do this process's part, and return the parts of all, in the order of the processes. Every process must call it.

    Args:
        strategy: knows the processes.
        work: returns this process's part; its objects live on the CPU and can be pickled.

    Raises:
        Exception: what ``work`` raised in this process.
        FailedElsewhereError: it raised in another process only.
    """
    error, part = None, []
    try:
        part = work()
    except Exception as raised:
        error = raised
    # Every process must learn of a failure before any of them waits for the others' parts.
    succeeded = strategy.reduce_boolean_decision(error is None, all=True)
    try:
        if error is not None:
            raise error
        if not succeeded:
            raise FailedElsewhereError("in another process")
    finally:
        error = None  # its traceback holds this frame: a cycle that would keep the failed audit's graph in memory
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return part
    parts: list[list[T]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(parts, part)
    return [item for part in parts for item in part]


def try_or_report(work: Callable[[], None], on_error: OnError, step: int, consequence: str) -> bool:
    """Return whether some work succeeded; if not, :func:`report_failure` has been called."""
    try:
        work()
    except Exception as error:
        report_failure(on_error, step, consequence, error)
        return False
    return True


def report_failure(on_error: OnError, step: int, consequence: str, error: Exception) -> None:
    """Raise or warn; of another process's failure only that process warns.

    Args:
        on_error: which of the two.
        step: global step of the training.
        consequence: what is lost by it, a sentence.
        error: what was raised.
    """
    if on_error == "raise":
        raise RuntimeError(f"ODSmoothGrad audit failed at step {step}: {error}") from error
    if not isinstance(error, FailedElsewhereError):
        trace = "".join(traceback.format_exception(error))
        warnings.warn(
            f"The ODSmoothGrad audit at step {step} failed, and training goes on without it (on_error='raise' "
            f"would stop it). {consequence}\n{trace}",
            RuntimeWarning,
            stacklevel=3,
        )
