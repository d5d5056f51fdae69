"""The command ``odsg``: train and evaluate through Lightning's command line, see the demonstration, report versions.

Only the standard library is imported here; each subcommand loads what it needs when it runs, so that ``odsg --help``
and ``odsg --version`` answer at once and work on a broken installation.
"""

import argparse
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from odsg_lightning import __version__
from odsg_lightning.config_files import config_names, config_path

_LIGHTNING = {
    "fit": "train, validate and audit: odsg fit --config retinanet_R_50_FPN --data.train_annotations ...",
    "validate": "evaluate and audit a checkpoint on the validation images (--ckpt_path)",
    "test": "the same, logged as test/...",
    "predict": "detect objects on the validation images; --trainer.callbacks says what to do with them",
}
_ENGINES = ("auto", "windowed", "cut", "autograd")  # of saliency/options.py
_REPORTED = ("torch", "torchvision", "lightning", "torchmetrics", "detectron2", "pycocotools", "tensorboard", "numpy")
_INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: the arguments after the program's name; ``None``: those of this process.

    Returns:
        The exit code: 0, or 2 for a mistake of the user's (wrong arguments, missing files, values out of range), or 130
        after Ctrl-C, or what the subcommand returns. Mistakes are told in one line on standard error; any other
        exception is raised, and all are if the environment variable ``ODSG_DEBUG`` is 1.
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
        print(f"odsg: error: {error}\n(ODSG_DEBUG=1 shows where it was raised.)", file=sys.stderr)
        return 2


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="odsg",
        description="Is your detector right for the right reasons? Fine-tune, audit and compare detectors.",
        epilog="Arguments of a subcommand: odsg <subcommand> --help.",
    )
    parser.add_argument("--version", action=_PrintVersions, nargs=0, help="show the versions that a bug report needs")
    subcommands = parser.add_subparsers(dest="subcommand", metavar="<subcommand>", required=True)
    for name, summary in _LIGHTNING.items():
        subcommands.add_parser(name, help=summary)
    _add_demo(subcommands)
    if arguments and arguments[0] in _LIGHTNING:
        return _run_lightning(arguments)  # has its own parser, with hundreds of arguments
    options = parser.parse_args(arguments)
    code: int = options.run(options)
    return code


# Subcommands ----------------------------------------------------------------------------------------------------------


def _run_lightning(arguments: list[str]) -> int:
    """``odsg fit | validate | test | predict``: the methods of Lightning's Trainer."""
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

    from odsg_lightning.training.data import CocoDetectionDataModule
    from odsg_lightning.training.module import DetectionModule

    class OdsgCLI(LightningCLI):
        def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # noqa: ANN401 - Lightning's
            # Lightning's own warns of arguments that do not come from sys.argv: these are the same ones.
            self.config = parser.parse_args(args)

    descriptions: dict[str, Any] = {name: {"description": summary} for name, summary in _LIGHTNING.items()}
    OdsgCLI(
        DetectionModule,
        CocoDetectionDataModule,
        args=_with_packaged_configs(arguments),
        # Without exit_on_error a wrong argument is told like every other mistake, not below two screens of usage.
        parser_kwargs={"prog": "odsg", "exit_on_error": False, **descriptions},
        auto_configure_optimizers=False,  # `model.optimizer` and `model.lr_scheduler` make them
        save_config_kwargs={"overwrite": True},  # else a second run into one folder raises
    )
    return 0


def _add_demo(subcommands: Any) -> None:  # noqa: ANN401 - argparse's type is private
    parser = subcommands.add_parser(
        "demo",
        help="fine-tune and audit a small detector on generated shapes, in minutes on a CPU",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--detector", choices=["retinanet", "faster-rcnn"], default="retinanet", help="what to train")
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="folder for data, logs and pictures")
    parser.add_argument("--seed", type=int, default=0, help="of the data, the weights and the training")
    parser.add_argument("--engine", choices=_ENGINES, default="auto", help="how the audit computes its gradients")
    parser.set_defaults(run=_run_demo)


def _run_demo(options: argparse.Namespace) -> int:
    from odsg_lightning.demo.run import run_demo

    return run_demo(detector=options.detector, output=options.output, seed=options.seed, engine=options.engine)


# Configurations -------------------------------------------------------------------------------------------------------


def _with_packaged_configs(arguments: list[str]) -> list[str]:
    """Replace the bare names of ``configs/training`` behind ``--config`` by paths; a file of that name goes first."""
    names = config_names("training")
    result: list[str] = []
    for position, argument in enumerate(arguments):
        option, equals, value = argument.rpartition("=")
        is_value = option in ("--config", "-c") if equals else arguments[position - 1] in ("--config", "-c")
        if is_value and not Path(value).exists() and f"training/{value}" in names:
            argument = f"{option}{equals}{config_path(f'training/{value}')}"
        result.append(argument)
    return result


# Versions -------------------------------------------------------------------------------------------------------------


class _PrintVersions(argparse.Action):
    """Prints versions, one per line, and ends the program. They are looked up only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:  # noqa: ANN401 - what argparse parsed
        print(f"odsg_lightning {__version__}")
        print(f"Python {sys.version.split()[0]}")
        for name in _REPORTED:
            print(f"{name} {_version_of(name)}")
        parser.exit()


def _version_of(name: str) -> str:
    if name == "detectron2":
        return _detectron2_version()
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _detectron2_version() -> str:
    """Look at the files only: importing Detectron2 loads torch."""
    spec = importlib.util.find_spec("detectron2")
    if spec is None:
        return "not installed"
    version = "of unknown version"  # a source tree on the path
    for distribution in ("detectron2", "detectron2-cdo"):
        try:
            version = f"{importlib.metadata.version(distribution)} ({distribution})"
            break
        except importlib.metadata.PackageNotFoundError:
            continue
    compiled = PathFinder.find_spec("detectron2._C", spec.submodule_search_locations) is not None
    return f"{version}, {'with' if compiled else 'without'} compiled operators"


# Errors ---------------------------------------------------------------------------------------------------------------


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


def _exit_code(stop: SystemExit) -> int:
    if isinstance(stop.code, str):
        print(stop.code, file=sys.stderr)
        return 1
    return stop.code or 0


if __name__ == "__main__":
    sys.exit(main())
