"""Processes that share a run out, launched by Lightning Fabric: by itself, or as torchrun and Slurm have started them.

Where Fabric starts them itself, this process works on nothing and watches over them: with Fabric's usual launcher it is
rank 0, which is killed without a word when another one fails.
"""

import logging
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch.multiprocessing.spawn import ProcessExitedException

from odsg_lightning.checkpoints.ranks import Ranks, lost_process
from odsg_lightning.errors import ToldElsewhereError, UserInputError

_PATIENCE = timedelta(days=30)  # how long the fastest process may wait for the slowest; a lost one is noticed at once


def share_out(
    work: Callable[[Ranks], None],
    device: torch.device,
    devices: int | None = None,
    num_nodes: int = 1,
    threads: int | None = None,
) -> None:
    """Do one piece of work in several processes together.

    Args:
        work: can be pickled; every process calls it, and only the first one's warnings and logs are seen.
        device: which kind of it each process has to itself.
        devices: processes of each node; None for this process alone, as 1.
        num_nodes: nodes. They must share a file system.
        threads: of each process on a CPU; None leaves them as they are.

    Raises:
        Exception: what one of the processes raised, in all of them.
        LostProcessError: a process ended by itself, as it does where memory is short.
        UserInputError: other processes than asked for, or fewer than 1.
    """
    for name, value in {"devices": devices, "num_nodes": num_nodes}.items():
        if value is not None and value < 1:
            raise UserInputError(f"Expected argument `{name}` to be at least 1, but got {value}.")
    each = devices or 1
    if each * num_nodes == 1:
        _refuse_many()
        with on_threads(threads):
            work(Ranks(0, 1, device))
        return
    with _environment_kept():
        fabric = _fabric(device, each, num_nodes)
        others = set(multiprocessing.active_children())
        try:
            # Lightning would look for modules in arguments, and refuses frozen dataclasses there.
            error = fabric.launch(partial(_run, work=work, threads=threads, shown=list(warnings.filters)))
        except ProcessExitedException as lost:
            raise lost_process(each * num_nodes, str(lost).strip()) from lost
        finally:
            for child in set(multiprocessing.active_children()) - others:
                child.terminate()
    if error is not None:
        raise error


def is_first(devices: int | None, num_nodes: int) -> bool:
    """Whether this process is the one that speaks for all."""
    return (devices or 1) * num_nodes == 1 or getattr(rank_zero_only, "rank", 0) == 0


@contextmanager
def told_once(devices: int | None, num_nodes: int) -> Iterator[None]:
    """Raise what is raised inside as it is in the first process only.

    Raises:
        ToldElsewhereError: of it, in any other.
    """
    try:
        yield
    except Exception as error:
        if is_first(devices, num_nodes):
            raise
        raise ToldElsewhereError(str(error)) from error


@contextmanager
def on_threads(count: int | None) -> Iterator[None]:
    """Let PyTorch compute on so many threads of a CPU; None for as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Strategy(DDPStrategy):
    """Processes that meet over gloo, on GPUs too: no tensors travel."""

    def __init__(self, start_method: Any) -> None:
        super().__init__(process_group_backend="gloo", start_method=start_method)

    def setup_environment(self) -> None:
        logging.disable(logging.INFO)  # each process would announce itself
        try:
            super().setup_environment()
        finally:
            logging.disable(logging.NOTSET)


def _fabric(device: torch.device, devices: int, num_nodes: int) -> Fabric:
    settings: dict[str, Any] = {"accelerator": device.type, "devices": devices, "num_nodes": num_nodes}
    fabric = Fabric(strategy=_Strategy("popen"), **settings)
    environment = fabric.strategy.cluster_environment  # type: ignore[attr-defined] # of every parallel strategy
    if not environment.creates_processes_externally:
        return Fabric(strategy=_Strategy("spawn"), **settings)
    try:
        environment.validate_settings(num_devices=devices, num_nodes=num_nodes)
    except ValueError as error:
        raise UserInputError(
            f"Expected as many processes as --devices and --num-nodes ask for, but got others. {error}"
        ) from error
    return fabric


def _refuse_many() -> None:
    """Refuse processes of torchrun that would each do everything, into the same files."""
    started = int(os.environ.get("WORLD_SIZE", 1)) if torch.distributed.is_torchelastic_launched() else 1
    if started > 1:
        raise UserInputError(f"Expected --devices, as torchrun started {started} processes: how many on each node?")


def _run(fabric: Fabric, work: Callable[[Ranks], None], threads: int | None, shown: list[Any]) -> Exception | None:
    """Work in one of the processes; return what all of them raise."""
    group = torch.distributed.new_group(timeout=_PATIENCE, backend="gloo")
    ranks = Ranks(fabric.global_rank, fabric.world_size, fabric.device, group)
    warnings.filters[:] = shown  # type: ignore[index] # a list in every Python
    with on_threads(threads), _quiet(ranks.rank > 0):
        try:
            work(ranks)
        except Exception as error:
            return ranks.leave(error)
    return None


@contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    """Show no warnings, in Python's way or in a log."""
    with warnings.catch_warnings():
        if quiet:
            warnings.simplefilter("ignore")
            logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


@contextmanager
def _environment_kept() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
