"""Work that processes share: each does its part, and all get everything, or learn that one of them failed."""

from collections.abc import Callable
from typing import TypeVar

import torch.distributed
from lightning.pytorch.strategies import Strategy

T = TypeVar("T")


class FailedElsewhereError(RuntimeError):
    """Another process failed at its part."""


def by_all(strategy: Strategy, work: Callable[[], list[T]]) -> list[T]:
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
        error = None  # its traceback holds this frame: a cycle that would keep the failed pass's graph in memory
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return part
    parts: list[list[T]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(parts, part)
    return [one for found in parts for one in found]
