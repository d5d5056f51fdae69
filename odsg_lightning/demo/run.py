"""The main job in minutes: fine-tune a small detector on generated shapes, audited at every validation."""

import time
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table

from odsg_lightning.callback.callback import ODSmoothGradCallback
from odsg_lightning.callback.dashboard import export_pictures
from odsg_lightning.demo.recipe import RECIPES, DetectorName, demo_parts, no_foreign_warnings
from odsg_lightning.errors import UserInputError
from odsg_lightning.records.tables import count_rows, iof_table
from odsg_lightning.saliency.options import Engine
from odsg_lightning.text import number

_VALIDATIONS = 6
_ENOUGH_AP50 = 0.9


class _Stopwatch(Callback):
    """Measures the whole of ``fit``."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.perf_counter()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds = time.perf_counter() - self.started


def run_demo(
    detector: DetectorName = "retinanet", output: Path = Path("runs/demo"), seed: int = 0, engine: Engine = "auto"
) -> int:
    """Train, audit and show.

    Writes below ``output``: the data (``shapes/``), and for each run ``<detector>/version_<n>/`` with the TensorBoard
    events, the checkpoints and every strip as PNG (``strips/``).

    Args:
        detector: which of the two tiny detectors.
        output: folder; made if missing, and an earlier demonstration in it is kept.
        seed: of the data, the weights and the training.
        engine: how the audit computes its gradients: the maps are the same, the seconds are not.

    Returns:
        0 if the detector learned its task (AP50 of at least 0.9); 1 otherwise: its maps would show nothing.

    Raises:
        UserInputError: ``detector`` or ``engine`` is not one of those that there are, or ``output/shapes`` holds
            something else.
    """
    if detector not in RECIPES:
        raise UserInputError(f"Expected argument `detector` to be one of {sorted(RECIPES)}, but got {detector!r}.")
    audit, watch = ODSmoothGradCallback(max_strips=16, engine=engine), _Stopwatch()  # refuses a wrong engine at once
    console = Console()
    _, steps = RECIPES[detector]
    seed_everything(seed, verbose=False)
    module, data = demo_parts(detector, output / "shapes", steps, seed)
    logger = TensorBoardLogger(output, name=detector)
    best = ModelCheckpoint(monitor="val/map_50", mode="max", auto_insert_metric_name=False)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        val_check_interval=steps // _VALIDATIONS,
        check_val_every_n_epoch=None,
        gradient_clip_val=5.0,
        logger=logger,
        callbacks=[audit, watch, best, LearningRateMonitor()],
        enable_model_summary=False,
    )
    with no_foreign_warnings():
        trainer.fit(module, datamodule=data)
    run = Path(logger.log_dir)
    pictures = export_pictures(run, run / "strips")
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    console.print(iof_table(metrics, f"{detector}, after its last step"))
    console.print(_run_table(metrics, watch.seconds - audit.seconds, audit.seconds))
    console.print(f"{len(pictures)} strips as PNG: {run / 'strips'}", soft_wrap=True)
    console.print("Look at the curves and the maps:", soft_wrap=True)
    console.print(f"  tensorboard --logdir {output} --samples_per_plugin images=200", soft_wrap=True, highlight=False)
    return _verdict(console, metrics["val/map_50"])


def _run_table(metrics: dict[str, float], training: float, auditing: float) -> Table:
    """Return what to read beside the IOF, and where the time went."""
    table = Table(show_header=False)
    table.add_row("AP50", number(metrics["val/map_50"], 2))
    for row in count_rows(metrics):
        table.add_row(*row)
    table.add_row("seconds training", f"{training:.0f}")
    table.add_row("seconds auditing", f"{auditing:.0f} in {_VALIDATIONS} audits")
    return table


def _verdict(console: Console, ap50: float) -> int:
    if ap50 >= _ENOUGH_AP50:
        return 0
    console.print(
        f"AP50 is {ap50:.2f}, expected at least {_ENOUGH_AP50}: the detector did not learn its task, so its maps say "
        "little. Try another --seed.",
        style="bold red",
    )
    return 1
