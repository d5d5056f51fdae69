"""The command ``odsg``: train, audit, compare and report. Each subcommand has a module of its own here.

Only the standard library is loaded by importing these modules; each subcommand loads what it needs when it runs, so
that ``odsg --help`` and ``odsg --version`` answer at once and work on a broken installation.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from odsg_lightning.cli import audit, demo, gate, lightning, report
from odsg_lightning.cli.versions import PrintVersions

_PARTS = (lightning, audit, gate, report, demo)
_USAGE = 2
_BROKEN_INPUT = 3
_INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: the arguments after the program's name; ``None``: those of this process.

    Returns:
        The exit code: 0, or 2 for a mistake of the user's (wrong arguments, missing files, values out of range), or 3
        for an input file that cannot be used, or 130 after Ctrl-C, or what the subcommand returns. Mistakes are told in
        one line on standard error; any other exception is raised, and all are if the environment variable
        ``ODSG_DEBUG`` is 1.
    """
    try:
        return _run(list(sys.argv[1:] if args is None else args))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except SystemExit as stop:
        # Lightning turns Ctrl-C into exit code 1, which would read as a failure.
        return _INTERRUPTED if isinstance(stop.__context__, KeyboardInterrupt) else _exit_code(stop)
    except Exception as error:
        if os.environ.get("ODSG_DEBUG") == "1" or not _is_users(error):
            raise
        print(f"odsg: error: {_printable(str(error))}\n(ODSG_DEBUG=1 shows where it was raised.)", file=sys.stderr)
        return _BROKEN_INPUT if _is_broken_input(error) else _USAGE


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
    code: int = options.run(options)
    return code


# Errors -------------------------------------------------------------------------------------------------------------


def _is_users(error: Exception) -> bool:
    """Whether an exception tells of the user's input or installation, not of a fault in the program.

    A ValueError or ImportError does if this package or a parser of arguments raised it; from anywhere else, a step of
    the training say, its traceback is needed.
    """
    innermost = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    raised_in = str(innermost.tb_frame.f_globals.get("__name__")) if innermost is not None else ""
    if isinstance(error, (ValueError, ImportError)):
        return raised_in.partition(".")[0] in ("odsg_lightning", "jsonargparse", "argparse")
    # Only who has loaded Lightning can have raised its exception, and importing it here would load torch.
    lightning = sys.modules.get("lightning.fabric.utilities.exceptions")
    kinds = (lightning.MisconfigurationException,) if lightning else ()
    return isinstance(error, (argparse.ArgumentError, FileNotFoundError, *kinds))


def _is_broken_input(error: Exception) -> bool:
    files = sys.modules.get("odsg_lightning.audit.files")  # whoever raised it has loaded it
    return files is not None and isinstance(error, files.BrokenInputError)


def _printable(message: str) -> str:
    """Replace what would command the terminal: a message may quote a file of unknown origin."""
    return "".join(one if one.isprintable() or one == "\n" else "\ufffd" for one in message)


def _exit_code(stop: SystemExit) -> int:
    if isinstance(stop.code, str):
        print(stop.code, file=sys.stderr)
        return 1
    return stop.code or 0
