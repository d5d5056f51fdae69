"""The command ``odsg``: train, audit, compare and report. Each subcommand has a module of its own here.

Only the standard library is loaded by importing these modules; each subcommand loads what it needs when it runs, so
that ``odsg --help`` and ``odsg --version`` answer at once and work on a broken installation.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from io import TextIOWrapper

from odsg_lightning.cli import audit, compare, convert, demo, doctor, explain, gate, lightning, report, sanity
from odsg_lightning.cli.version import PrintVersions
from odsg_lightning.errors import BrokenInputError, MissingDependencyError, ToldElsewhereError, UserInputError
from odsg_lightning.text import printable

_PARTS = (lightning, convert, audit, explain, compare, sanity, gate, report, demo, doctor)
_USAGE = 2
_BROKEN_INPUT = 3
_UNEXPECTED = 70  # EX_SOFTWARE of sysexits.h
_MACHINE = 74  # EX_IOERR
_INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: the arguments after the program's name; ``None``: those of this process.

    Returns:
        The exit code: 0; 2 for a mistake of the user's (wrong arguments, values out of range, a package that is not
        installed); 3 for an input file that is missing or cannot be used; 74 for an error of the machine (a full disk,
        no permission, no memory); 70 for a fault of the program, whose traceback is shown; 130 after Ctrl-C; or what
        the subcommand returns. The class of the exception decides (:mod:`odsg_lightning.errors`). All are raised if the
        environment variable ``ODSG_DEBUG`` is 1.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a console may lack a category's letters
    return _flushed(_exit_code_of(args))


def _exit_code_of(args: Sequence[str] | None) -> int:
    try:
        return _run(list(sys.argv[1:] if args is None else args))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except SystemExit as stop:
        # Lightning turns Ctrl-C into exit code 1, which would read as a failure.
        return _INTERRUPTED if isinstance(stop.__context__, KeyboardInterrupt) else _exit_code(stop)
    except Exception as error:
        if os.environ.get("ODSG_DEBUG") == "1":
            raise
        return _report(error)


def _flushed(code: int) -> int:
    """Write what was printed: to a full disk, say, which would otherwise show at Python's own end, as exit code 120."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left in the buffer
        return _report(error)
    return code


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="odsg",
        description="Is your detector right for the right reasons? Fine-tune, audit and compare detectors.",
        epilog="Arguments of a subcommand: odsg <subcommand> --help.",
    )
    parser.add_argument("--version", action=PrintVersions, nargs=0, help="show the versions that a bug report needs")
    subcommands = parser.add_subparsers(dest="subcommand", metavar="<subcommand>", required=True)
    for part in _PARTS:
        part.add(subcommands)
    if arguments and arguments[0] in lightning.SUMMARIES:
        return lightning.run(arguments)
    options = parser.parse_args(arguments)
    options.odsg = main  # for a subcommand that runs others
    code: int = options.run(options)
    return code


# Errors -------------------------------------------------------------------------------------------------------------


def _report(error: Exception) -> int:
    """Say on standard error what went wrong, and return the exit code."""
    if isinstance(error, ToldElsewhereError) and isinstance(error.__cause__, Exception):
        return _code_of(error.__cause__)
    code = _code_of(error)
    if code != _UNEXPECTED:
        message = str(error) or type(error).__name__  # a MemoryError says nothing
        print(f"odsg: error: {printable(message)}\n(ODSG_DEBUG=1 shows where it was raised.)", file=sys.stderr)
        return code
    trace = "".join(traceback.format_exception(error))
    print(
        f"{printable(trace)}\nodsg: this should not have happened. Please report it, with the lines above and the "
        "output of `odsg --version`: see CONTRIBUTING.md.",
        file=sys.stderr,
    )
    return code


def _code_of(error: Exception) -> int:
    if isinstance(error, BrokenInputError):
        return _BROKEN_INPUT
    misconfiguration = _loaded("lightning.fabric.utilities.exceptions", "MisconfigurationException")
    if isinstance(error, (UserInputError, MissingDependencyError, argparse.ArgumentError, *misconfiguration)):
        return _USAGE
    no_memory = _loaded("torch.cuda", "OutOfMemoryError")
    return _MACHINE if isinstance(error, (OSError, MemoryError, *no_memory)) else _UNEXPECTED


def _loaded(module: str, name: str) -> tuple[type[Exception], ...]:
    """Return an exception of another package, if that is loaded: only then can it have been raised."""
    kind = getattr(sys.modules.get(module), name, None)
    return (kind,) if kind else ()


def _exit_code(stop: SystemExit) -> int:
    if isinstance(stop.code, str):
        print(stop.code, file=sys.stderr)
        return _UNEXPECTED
    return stop.code or 0
