"""Detectron2's ``SOLVER`` section under Lightning: optimizer, schedule and gradient clipping."""

from collections.abc import Iterable
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from odsg_lightning.detectors.detectron2_names import CfgNode, solver
from odsg_lightning.errors import UserInputError


def build_solver(
    cfg: CfgNode,
    detector: nn.Module,
    optimizer: OptimizerCallable | None = None,
    lr_scheduler: LRSchedulerCallable | None = None,
    total_steps: float | None = None,
) -> dict[str, Any]:
    """Build what ``LightningModule.configure_optimizers`` returns.

    The learning rate is used as it is: it is not scaled to the batch size or the number of devices.

    Args:
        cfg: its ``SOLVER`` section is used for what the callables do not make.
        detector: only its trainable parameters are optimised.
        optimizer: makes an optimizer of parameters.
        lr_scheduler: makes a schedule of an optimizer. ``None``: the configuration's, or a constant rate if
            ``optimizer`` is given.
        total_steps: optimizer steps of the whole run, compared with the configuration's schedule; ``None``: not known.

    Raises:
        MisconfigurationException: the run is longer than the configuration's schedule.
    """
    if optimizer is None:
        built = _optimizer_from_config(cfg, detector)
    else:
        built = optimizer([parameter for parameter in detector.parameters() if parameter.requires_grad])
    if lr_scheduler is not None:
        scheduler = lr_scheduler(built)
    elif optimizer is None:
        if total_steps is not None:
            _check_schedule(cfg, total_steps)
        scheduler = solver.build_lr_scheduler(cfg, built)
    else:
        return {"optimizer": built}
    if isinstance(scheduler, ReduceLROnPlateau):
        settings = {"scheduler": scheduler, "interval": "epoch", "monitor": scheduler.monitor}
    else:
        settings = {"scheduler": scheduler, "interval": "step"}
    return {"optimizer": built, "lr_scheduler": settings}


def _optimizer_from_config(cfg: CfgNode, detector: nn.Module) -> torch.optim.Optimizer:
    cfg = cfg.clone()
    cfg.defrost()
    # Detectron2 clips inside `optimizer.step`, before Lightning's closure has computed the gradients: nothing would be
    # clipped. clip_gradients_from_config does it where Lightning expects it.
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = False
    optimizer: torch.optim.Optimizer = solver.build_optimizer(cfg, detector)
    return optimizer


def _check_schedule(cfg: CfgNode, total_steps: float) -> None:
    """Detectron2's schedules are defined up to ``MAX_ITER``: past it one raises and another climbs again."""
    if total_steps > cfg.SOLVER.MAX_ITER:
        raise MisconfigurationException(
            f"Expected a run of at most SOLVER.MAX_ITER = {cfg.SOLVER.MAX_ITER} optimizer steps, where the "
            f"configuration's schedule ends, but the Trainer will make {total_steps}. Raise SOLVER.MAX_ITER, lower the "
            "Trainer's max_steps or max_epochs, or give the module an optimizer or an lr_scheduler."
        )
    if total_steps <= cfg.SOLVER.WARMUP_ITERS:
        rank_zero_warn(
            f"The run ends after {total_steps} optimizer steps, within the schedule's warm-up of SOLVER.WARMUP_ITERS = "
            f"{cfg.SOLVER.WARMUP_ITERS}: the learning rate never reaches SOLVER.BASE_LR = {cfg.SOLVER.BASE_LR}."
        )


def clip_gradients_from_config(cfg: CfgNode, parameters: Iterable[nn.Parameter]) -> None:
    """Clip gradients in place as ``SOLVER.CLIP_GRADIENTS`` says, and as Detectron2 does: parameter by parameter.

    ``CLIP_TYPE: value`` limits each element to +-``CLIP_VALUE``; ``norm`` scales the gradient of each parameter to a
    ``NORM_TYPE`` norm of at most ``CLIP_VALUE`` (Lightning's own clipping takes one norm over all parameters).

    Raises:
        UserInputError: ``CLIP_TYPE`` is neither.
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return
    if clip.CLIP_TYPE not in ("value", "norm"):
        raise UserInputError(
            f"Expected SOLVER.CLIP_GRADIENTS.CLIP_TYPE to be 'value' or 'norm', but got {clip.CLIP_TYPE!r}."
        )
    for parameter in parameters:
        if clip.CLIP_TYPE == "value":
            nn.utils.clip_grad_value_(parameter, clip.CLIP_VALUE)
        else:
            nn.utils.clip_grad_norm_(parameter, clip.CLIP_VALUE, clip.NORM_TYPE)
