"""The main job in minutes: fine-tune a small detector on generated shapes, audited at every validation."""

from pathlib import Path

from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console

from odsg_lightning.callback.callback import ODSmoothGradCallback
from odsg_lightning.callback.closing import Closing
from odsg_lightning.callback.loggers import export_pictures
from odsg_lightning.demo.recipe import RECIPES, DetectorName, demo_parts, no_foreign_warnings
from odsg_lightning.errors import UserInputError
from odsg_lightning.saliency.options import Engine

_VALIDATIONS = 6
_ENOUGH_AP50 = 0.9
_TOLERANCE = 0.03
"""So that audits take less of a short training. Means stay those of 20 noise samples: docs/speed.md."""


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
    audit = ODSmoothGradCallback(max_strips=16, engine=engine, tolerance=_TOLERANCE)  # refuses a wrong engine at once
    closing = Closing(f"{detector}, after its last step")
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
        callbacks=[audit, closing, best, LearningRateMonitor()],
        enable_model_summary=False,
    )
    with no_foreign_warnings():
        trainer.fit(module, datamodule=data)
    run = Path(logger.log_dir)
    pictures = export_pictures(run, run / "strips")
    closing.print(console, trainer)
    console.print(f"{len(pictures)} strips as PNG: {run / 'strips'}", soft_wrap=True, highlight=False)
    return _verdict(console, float(trainer.callback_metrics["val/map_50"]))


def _verdict(console: Console, ap50: float) -> int:
    if ap50 >= _ENOUGH_AP50:
        return 0
    console.print(
        f"AP50 is {ap50:.2f}, expected at least {_ENOUGH_AP50}: the detector did not learn its task, so its maps say "
        "little. Try another --seed.",
        style="bold red",
    )
    return 1
