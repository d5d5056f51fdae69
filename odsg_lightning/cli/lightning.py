"""``odsg fit | validate | test | predict``: the methods of Lightning's Trainer, through Lightning's command line."""

from pathlib import Path
from typing import Any

from odsg_lightning.config_files import config_names, config_path

SUMMARIES = {
    "fit": "train, validate and audit: odsg fit --config retinanet_R_50_FPN --data.train_annotations ...",
    "validate": "evaluate and audit a checkpoint on the validation images (--ckpt_path)",
    "test": "the same, logged as test/...",
    "predict": "detect objects on the validation images; --trainer.callbacks says what to do with them",
}


def add(subcommands: Any) -> None:  # noqa: ANN401 - argparse's type is private
    """Name the subcommands, for ``odsg --help``; Lightning's own parser, with hundreds of arguments, reads theirs."""
    for name, summary in SUMMARIES.items():
        subcommands.add_parser(name, help=summary)


def run(arguments: list[str]) -> int:
    """Run one of the Trainer's methods with the arguments behind ``odsg``."""
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

    from odsg_lightning.data.datamodule import CocoDetectionDataModule
    from odsg_lightning.training.module import DetectionModule

    class OdsgCLI(LightningCLI):
        def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # noqa: ANN401 - Lightning's
            # Lightning's own warns of arguments that do not come from sys.argv: these are the same ones.
            self.config = parser.parse_args(args)

    descriptions: dict[str, Any] = {name: {"description": summary} for name, summary in SUMMARIES.items()}
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
