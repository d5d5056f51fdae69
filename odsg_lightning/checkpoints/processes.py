"""Tasks shared out to processes of this machine, one thread each: small networks do not fill several with one image."""

import logging
import multiprocessing
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any, TypeVar

import torch

from odsg_lightning.errors import UserInputError

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_processes(
    tasks: Sequence[Task],
    here: Callable[[Task], Result],
    start: Callable[[], Callable[[Task], Result]],
    processes: int,
) -> Iterator[Result]:
    """Do tasks, and give their results in the order of the tasks.

    Args:
        tasks: that can be pickled, as their results can.
        here: does one in this process, if there is to be one process only, or one task.
        start: can be pickled; called once in each process, it returns what does a task there.
        processes: at least 1.

    Yields:
        One result after another. What a task raises is raised here, and nothing further is begun.

    Raises:
        UserInputError: a process ended by itself, as it does where memory is short.

    Example:
        >>> list(in_processes([1, 2], lambda task: 10 * task, lambda: None, processes=1))
        [10, 20]
    """
    if min(processes, len(tasks)) <= 1:
        yield from map(here, tasks)
        return
    spawn = multiprocessing.get_context("spawn")  # a fork of a process that has run PyTorch's threads may hang
    others = set(multiprocessing.active_children())
    shown = list(warnings.filters)
    pool = ProcessPoolExecutor(min(processes, len(tasks)), spawn, initializer=_begin, initargs=(start, shown))
    try:
        yield from pool.map(_do, tasks)
    except BrokenProcessPool as error:
        raise UserInputError(
            f"Expected {processes} processes to do the work, but one was ended from outside, as happens where memory "
            "is short. Ask for fewer: --processes 1."
        ) from error
    finally:
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        pool.shutdown(cancel_futures=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch compute on one thread of a CPU, so that results hang on no number of processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_worker: dict[str, Any] = {}


def _begin(start: Callable[[], Callable[[Any], Any]], shown: list[Any]) -> None:
    torch.set_num_threads(1)
    warnings.filters[:] = shown  # type: ignore[index] # a list in every Python
    _worker["start"] = start
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the one that began it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _do(task: Any) -> Any:
    if "do" not in _worker:
        logging.disable(logging.WARNING)  # the first process has said it
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _worker["do"] = _worker["start"]()
        logging.disable(logging.NOTSET)
    return _worker["do"](task)
