"""``odsg fit | validate | test | predict``: the methods of Lightning's Trainer, through Lightning's command line."""

import re
from argparse import ArgumentError
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from odsg_lightning.config_files import config_names, config_path
from odsg_lightning.errors import BrokenInputError, UserInputError

_TERMINATED = 143  # what a shell reports for a program ended by SIGTERM

SUMMARIES = {
    "fit": "train, validate and audit: odsg fit --config retinanet_R_50_FPN --data.train_annotations ...",
    "validate": "evaluate and audit a checkpoint on the validation images (--ckpt_path)",
    "test": "the same, logged as test/...",
    "predict": "detect objects on the validation images; --trainer.callbacks says what to do with them",
}


def add(subcommands: Any) -> None:
    """Name the subcommands, for ``odsg --help``; Lightning's own parser, with hundreds of arguments, reads theirs."""
    for name, summary in SUMMARIES.items():
        subcommands.add_parser(name, help=summary)


def run(arguments: list[str]) -> int:
    """Run one of the Trainer's methods with the arguments behind ``odsg``.

    Returns:
        0; 143 if SIGTERM has ended it, of which Lightning itself says nothing.
    """
    from lightning.pytorch import Callback
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
    from lightning.pytorch.utilities.exceptions import SIGTERMException
    from rich.console import Console

    from odsg_lightning.callback.closing import Closing
    from odsg_lightning.data.datamodule import CocoDetectionDataModule
    from odsg_lightning.training.ckpt_path import require_checkpoint
    from odsg_lightning.training.module import DetectionModule

    class OdsgCLI(LightningCLI):
        def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
            # Lightning's own warns of arguments that do not come from sys.argv: these are the same ones.
            try:
                self.config = parser.parse_args(args)
            except ArgumentError as error:
                raise UserInputError(f"{error}{_renamed_in(str(error))}") from error
            # Here, because what Lightning does next is to read its hyperparameters.
            subcommand = str(self.config["subcommand"])
            options = self.config[subcommand]
            trust = options.get("weights_only") is False
            require_checkpoint(options.get("ckpt_path"), resume=subcommand == "fit", trust=trust)

        def instantiate_classes(self) -> None:
            refused: list[Exception] = []

            def noting(kind: type[Any], *args: Any, **kwargs: Any) -> Any:
                try:
                    return kind(*args, **kwargs)
                except Exception as error:
                    refused.append(error)
                    raise

            self.parser.add_instantiator(noting, Callback)
            try:
                super().instantiate_classes()
            except ValueError:
                # `trainer.callbacks` may be of several types: jsonargparse tries each, and lists what all of them said.
                if refused:
                    raise refused[-1] from None
                raise
            self.closing = Closing("What the detector looks at: the last audit")
            self.trainer.callbacks.insert(0, self.closing)  # type: ignore[attr-defined] # set by another object

        def after_fit(self) -> None:
            self.closing.print(Console(), self.trainer)

    descriptions: dict[str, Any] = {name: {"description": summary} for name, summary in SUMMARIES.items()}
    try:
        with _unfit_weights_named():
            OdsgCLI(
                DetectionModule,
                CocoDetectionDataModule,
                args=_with_packaged_configs(arguments),
                # Without exit_on_error a wrong argument is reported like any mistake, not below two screens of usage.
                parser_kwargs={"prog": "odsg", "exit_on_error": False, **descriptions},
                auto_configure_optimizers=False,  # `model.optimizer` and `model.lr_scheduler` make them
                save_config_kwargs={"overwrite": True},  # otherwise a second run into one folder raises
            )
    except SIGTERMException:
        return _TERMINATED
    return 0


@contextmanager
def _unfit_weights_named() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if "loading state_dict for DetectionModule" not in str(error):  # PyTorch's own words
            raise
        what = " ".join(str(error).split())[:1000]
        raise BrokenInputError(
            f"Expected the checkpoint (--ckpt_path) to fill the detector of the configuration, but {what}"
        ) from error


def _renamed_in(message: str) -> str:
    """Return a hint for each argument of the last version that has another name now."""
    renamed = {"samples": "audit_samples", "floor_images": "reseeded_images", "method": "explainer"}
    hints = [f"{old} is called {new} now" for old, new in renamed.items() if re.search(rf"(?<!\w){old}\b", message)]
    return f"\nAmong the callback's arguments, {', and '.join(hints)}." if hints else ""


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
