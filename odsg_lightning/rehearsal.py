"""Work on a file of unknown origin, done once in a process of its own with a limit of time and memory.

No list of what a file may not hold is complete: a pickle of 645 bytes can keep its reader busy without end, one of 40
bytes asks for a terabyte. So a copy of this process (``fork``: milliseconds, where a new one would load torch for
seconds) does the work first. If it does not finish within the limits, the file is refused; otherwise this process does
the work itself, and whatever is wrong with the file shows then.
"""

import io
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from odsg_lightning.errors import BrokenInputError

SECONDS = 5
"""Processor time for any file: hundreds of times what a small one needs."""

_BYTES_A_SECOND = 20 * 2**20
_MEMORY = 2**30
_MEMORY_A_BYTE = 4
_NO_MEMORY = 3


def rehearse(work: Callable[[], object], path: Path) -> None:
    """Do some work in a copy of this process, for nothing but to see that it ends and takes a memory in proportion.

    Where a process cannot be copied or limited (Windows), nothing is done.

    Args:
        work: reads the file; what it returns or raises is lost, and what it changes stays in the copy.
        path: the file, by whose size the limits grow: 5 seconds and one for every 20 MiB, ten times that by the clock;
            1 GiB and four times its size.

    Raises:
        BrokenInputError: the work does not end within the limits.
    """
    if sys.platform == "win32":
        return
    size = path.stat().st_size
    seconds, memory = SECONDS + size // _BYTES_A_SECOND, _MEMORY + _MEMORY_A_BYTE * size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads, none of which the copy needs
        child = os.fork()
    if not child:
        _work_and_end(work, seconds, memory)
    status = os.waitpid(child, 0)[1]
    code = os.waitstatus_to_exitcode(status)
    if code < 0 or code == _NO_MEMORY:
        raise BrokenInputError(
            f"Expected {path}, of {size} bytes, to be loaded in {seconds} s of processor time and "
            f"{memory / 2**30:.1f} GiB of memory, but that was not enough: it is damaged, or made to keep us busy."
        )


def _work_and_end(work: Callable[[], object], seconds: int, memory: int) -> None:
    """Do the work in the copy, silently, and end it without anything that its original has planned for its own end."""
    import resource  # which Windows has not

    code = 0
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        sys.stdout = sys.stderr = io.StringIO()  # where somebody has replaced them
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)  # its other threads are not there, and would be waited for
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10 * seconds)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        if sys.platform == "linux":
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
        work()
    except BaseException as error:
        chain: BaseException | None = error
        while chain is not None and code == 0:
            code = _NO_MEMORY if isinstance(chain, MemoryError) or "can't allocate memory" in str(chain) else 0
            chain = chain.__cause__ or chain.__context__
    finally:
        os._exit(code)
