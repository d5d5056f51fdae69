"""The processes that share a run out, as one of them sees them: who does which image, and what came of it.

Images are independent, so that processes meet only for the list of those that are left, and at the end. A process that
is gone has closed its connections, so that nobody waits for it.
"""

import pickle
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed

from odsg_lightning.errors import LostProcessError
from odsg_lightning.records.kept_folder import KeptFolder

Task = TypeVar("Task")
Result = TypeVar("Result")


class Ranks:
    """The processes of a run, as one of them sees them.

    Args:
        rank: of this process, from 0.
        size: the number of processes, on all nodes.
        device: of this process.
        group: over which they meet; None for one process.
    """

    def __init__(self, rank: int, size: int, device: torch.device, group: Any = None) -> None:
        """See the class for the arguments."""
        self.rank, self.size, self.device = rank, size, device
        self._group, self._left = group, False

    def each(self, do: Callable[[], Result]) -> list[Result]:
        """Do something in every process, and return what came of it in all, by rank. All must call it.

        Raises:
            Exception: what was raised, in all processes the same: that of the lowest rank.
            LostProcessError: a process is gone.
        """
        if self.size == 1:
            return [do()]
        error, result = None, None
        try:
            result = do()
        except Exception as raised:
            error = _portable(raised)
        outcomes: list[Any] = [None] * self.size
        self._left = True  # unless all goes well, all leave from here
        try:
            torch.distributed.all_gather_object(outcomes, (error, result), self._group)
        except RuntimeError as lost:
            raise lost_process(self.size, "one ended before its time") from lost
        for error, _ in outcomes:
            if error is not None:
                raise error
        self._left = False
        return [result for _, result in outcomes]

    def first(self, do: Callable[[], Result]) -> Result:
        """Do something in the first process alone, and return what came of it, in all. All must call it."""
        found = self.each(lambda: do() if self.rank == 0 else None)[0]
        return found  # type: ignore[return-value]

    def open(self, kept: KeptFolder, do: Callable[[], Result]) -> Result:
        """Open a folder in the first process, which all of them use, and return what came of it. All must call it."""
        found = self.first(do)
        self.each(kept.join if self.rank else lambda: None)
        return found

    def share(self, tasks: Sequence[Task], do: Callable[[Task], Result], kept: KeptFolder) -> list[Result]:
        """Do the tasks, each in one of the processes, and return all results in their order. All must call it.

        Args:
            tasks: the same in all processes; the longest first, so that all have as much to do.
            do: does one here, and keeps it in ``kept``.
            kept: through it the others learn of a failure before they have done all of their tasks.
        """

        def mine() -> list[Result]:
            results = []
            try:
                for task in tasks[self.rank :: self.size]:
                    if self.size > 1 and kept.has_failed:
                        break
                    results.append(do(task))
            except Exception:
                if self.size > 1:
                    kept.mark_failed()
                raise
            return results

        shares = self.each(mine)
        return [shares[index % self.size][index // self.size] for index in range(len(tasks))]

    def leave(self, error: Exception) -> Exception:
        """Return what all processes raise because this one cannot go on: the others learn it where they meet next."""

        def fail() -> None:
            raise error

        if not self._left:
            try:
                self.each(fail)
            except LostProcessError:
                pass
            except Exception as told:
                return told
        return error


def _portable(error: Exception) -> Exception:
    """Return an error that can go to another process, with its traceback as a note, which a report of a bug shows."""
    text = "".join(traceback.format_exception(error))
    try:
        portable: Exception = pickle.loads(pickle.dumps(error))
    except Exception:  # its class cannot be pickled, or not be made of its arguments
        return RuntimeError(text)
    portable.add_note(text)
    return portable


def lost_process(processes: int, what: str) -> LostProcessError:
    """Return what is raised because of a process that ended by itself; ``what`` says how."""
    return LostProcessError(
        f"Expected {processes} processes to do the work, but {what}. One that is killed may have been short of memory. "
        "Finished images are kept: the same call goes on from them, with any number of --devices."
    )
