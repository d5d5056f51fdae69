"""A Detectron2 detector as a LightningModule: losses, COCO average precision, checkpoints that stand alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from odsg_lightning.detectors.build import build_detector, class_count, load_config, portable_config, require_trainable
from odsg_lightning.detectors.detectron2 import to_input_format
from odsg_lightning.detectors.detectron2_names import EventStorage
from odsg_lightning.detectors.weights.category_names import (
    CATEGORY_NAMES,
    category_names_in,
    category_names_of,
    require_same_categories,
)
from odsg_lightning.detectors.weights.load import load_weights
from odsg_lightning.detectors.weights.tensor_names import named_as
from odsg_lightning.errors import UserInputError
from odsg_lightning.training.average_precision import Backend, CocoAveragePrecision
from odsg_lightning.training.detectron2_batch import detect, evaluation_inputs, training_inputs
from odsg_lightning.training.loss_watch import LossWatch
from odsg_lightning.training.solver import build_solver, clip_gradients_from_config
from odsg_lightning.types import Detections

Batch = list[dict[str, Any]]

_NORMALIZER_KEY = "odsg_loss_normalizer"


class DetectionModule(LightningModule):
    """Trains and evaluates a RetinaNet, a Faster R-CNN or a Mask R-CNN of Detectron2.

    Logs ``train/loss`` and each loss (``train/loss_cls``, ...) at every step, and ``val/map``, ``val/map_50`` and
    ``val/map_75`` (``test/...``) at the end of an evaluation; as with COCO's own tool, -1 means that there was no
    ground truth. Batches are described in :mod:`odsg_lightning.training.detectron2_batch`.

    A checkpoint holds what in the configuration differs from Detectron2's defaults, as plain data:
    ``DetectionModule.load_from_checkpoint(path)`` needs no YAML file, no weights and no data module. It also holds the
    names of the classes, if the data module says them (``category_names``): data with others, or in another order, are
    refused. ``optimizer`` and ``lr_scheduler`` are code and are not in it: pass them again to train on.

    Args:
        config: see :func:`odsg_lightning.detectors.build.load_config`.
        overrides: see there.
        num_classes: ``None``: as in the configuration; ``"auto"``: the data module's ``num_classes``, when the Trainer
            sets the module up.
        weights: a ``.pth`` or model-zoo ``.pkl`` file to start from, see
            :func:`odsg_lightning.detectors.weights.load.load_weights`. Not kept in a checkpoint, nor read by
            ``load_from_checkpoint``.
        optimizer: makes an optimizer of the trainable parameters. ``None``: the configuration's ``SOLVER``.
        lr_scheduler: makes a schedule, stepped after every optimizer step. ``None``: the configuration's, or a constant
            rate if ``optimizer`` is given.
        map_backend: what computes the average precision.
        trust_weights: read ``weights`` with Python's own pickle, which runs whatever code the file names.

    A loss that is not finite stops the training (:mod:`odsg_lightning.training.loss_watch`).

    Attributes:
        detector: Detectron2's own module.
        cfg: the merged configuration.
        needs_masks: whether it is trained on masks, too, which the data module then adds to its batches.
        category_names: name of each class, by label; None until a data module or a checkpoint has said them.

    Raises:
        UserInputError: the configuration or the number of classes cannot be used.
        BrokenInputError: the weights cannot be used.

    Example:
        >>> module = DetectionModule("retinanet_tiny", num_classes=3).eval()
        >>> [detections] = module([torch.zeros(3, 64, 64)])
        >>> detections.boxes.shape  # nothing was trained, nothing is detected
        torch.Size([0, 4])
    """

    detector: nn.Module

    def __init__(
        self,
        config: str | Path | Mapping[str, Any],
        overrides: Sequence[str] | Mapping[str, Any] | None = None,
        num_classes: int | Literal["auto"] | None = None,
        weights: str | Path | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        map_backend: Backend = "pycocotools",
        trust_weights: bool = False,
    ) -> None:
        """Store the arguments; build the detector unless ``num_classes`` is ``"auto"``."""
        super().__init__()
        self.cfg = load_config(config, overrides or (), None if num_classes == "auto" else num_classes)
        require_trainable(self.cfg)
        self.needs_masks = bool(self.cfg.MODEL.MASK_ON)
        self._weights = weights
        self._trust_weights = trust_weights
        self._optimizer = optimizer
        self._lr_scheduler = lr_scheduler
        # A dictionary of plain data, not the arguments themselves: the YAML file may move, callables do not pickle,
        # and the weights are those of the checkpoint.
        hparams = {
            "config": portable_config(self.cfg),
            "overrides": None,
            "num_classes": num_classes,
            "map_backend": map_backend,
        }
        self.save_hyperparameters(hparams, logger=False)
        self.category_names: tuple[str, ...] | None = None
        self._average_precision = CocoAveragePrecision(map_backend)
        self._losses = LossWatch()
        if num_classes != "auto":
            self._build()

    def __getattr__(self, name: str) -> Any:
        """Say why there is no detector yet."""
        # nn.Module keeps submodules where only its own __getattr__ looks.
        if name == "detector" and name not in self.__dict__.get("_modules", {}):
            raise AttributeError(
                "The detector does not exist yet: with num_classes='auto' it is built when the Trainer sets the module "
                "up, because the data module knows the number of classes. Give num_classes as a number to build it now."
            )
        return super().__getattr__(name)

    def _build(self) -> None:
        self.detector = build_detector(self.cfg)
        if self._weights is not None:
            load_weights(self.detector, self._weights, trust=self._trust_weights)

    def configure_model(self) -> None:
        """Build the detector if ``num_classes="auto"`` left it to the data module; check the classes if not.

        Raises:
            MisconfigurationException: no data module says the number of classes, or it has more than the detector.
            UserInputError: it names them otherwise than the data that the detector was trained on.
        """
        datamodule = getattr(self._trainer, "datamodule", None)
        known: int | None = getattr(datamodule, "num_classes", None)
        if not hasattr(self, "detector"):
            if known is None:
                raise MisconfigurationException(
                    "Expected num_classes='auto' to come with a data module that has `num_classes`, but got "
                    f"{type(datamodule).__name__}. Give the Trainer such a data module, or num_classes as a number."
                )
            self.cfg = load_config(self.cfg, num_classes=known)
            self.hparams.update(config=portable_config(self.cfg), num_classes=known)
            self._build()
        elif known is not None and known > class_count(self.cfg):
            raise MisconfigurationException(
                f"Expected data of at most {class_count(self.cfg)} classes, the detector's number, but the data module "
                f"has {known}. Set num_classes to {known} or to 'auto'."
            )
        names = category_names_of(datamodule)
        require_same_categories(self.category_names, names)
        self.category_names = self.category_names or names

    def forward(self, images: Sequence[Tensor]) -> list[Detections]:
        """Detect objects.

        The module must be in evaluation mode, and this method does not change the mode: in training mode Detectron2
        returns losses, and batch norm would learn from the images. Gradients are recorded unless the caller turns them
        off; Detectron2 0.5 can differentiate one image at a time only.

        Args:
            images: RGB, ``[3, H, W]`` each, 0 to 255, sizes may differ.

        Returns:
            For each image its detections, in pixels of that image, highest score first.

        Raises:
            RuntimeError: the module is in training mode.
        """
        return detect(self.detector, [{"image": to_input_format(i, self.cfg.INPUT.FORMAT)} for i in images])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the sum of Detectron2's losses, and log each."""
        self._look_at_losses()
        # Detectron2's losses write into a storage, and fail without one.
        with EventStorage(self.global_step):
            inputs = training_inputs(batch, self.cfg.INPUT.FORMAT, self.needs_masks)
            losses: dict[str, Tensor] = self.detector(inputs)
        self._losses.keep(self.global_step, [sample.get("image_id") for sample in batch], losses)
        total = torch.stack(list(losses.values())).sum()
        self.log("train/loss", total, prog_bar=True, batch_size=len(batch))
        self.log_dict({f"train/{name}": loss for name, loss in losses.items()}, batch_size=len(batch))
        return total

    def on_before_backward(self, loss: Tensor) -> None:
        """Stop before the step that would spoil the weights, if the losses are there already."""
        if self._losses.ready:
            self._look_at_losses()

    def on_train_end(self) -> None:
        """Look at the last losses."""
        self._look_at_losses()

    def _look_at_losses(self) -> None:
        # Mixed precision of 16 bits has a scaler, which skips a step that overflows, and lowers its scale.
        scaler = getattr(self.trainer.precision_plugin, "scaler", None) if self._trainer is not None else None
        self._losses.look(skips_steps=scaler is not None)

    def on_validation_epoch_start(self) -> None:
        """Forget the images of an earlier evaluation."""
        self._average_precision.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Compare the detections with the ground truth, in original pixels."""
        for sample, detections in zip(batch, self._detect_original(batch), strict=True):
            self._average_precision.update(sample["image_id"], detections, sample["target"])

    def on_validation_epoch_end(self) -> None:
        """Log ``val/map``, ``val/map_50`` and ``val/map_75``."""
        self._log_average_precision("val")

    def on_test_epoch_start(self) -> None:
        """As in validation."""
        self.on_validation_epoch_start()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As in validation."""
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log ``test/map``, ``test/map_50`` and ``test/map_75``."""
        self._log_average_precision("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """Return for each image its ``image_id``, and ``boxes`` (XYXY, original pixels), ``scores`` and ``labels``."""
        return [
            {
                "image_id": sample["image_id"],
                "boxes": detections.boxes,
                "scores": detections.scores,
                "labels": detections.labels,
            }
            for sample, detections in zip(batch, self._detect_original(batch), strict=True)
        ]

    def _detect_original(self, batch: Batch) -> list[Detections]:
        return detect(self.detector, evaluation_inputs(batch, self.cfg.INPUT.FORMAT))

    def _log_average_precision(self, stage: str) -> None:
        # Every rank computes, and gets the same values; sync_dist only tells Lightning that they may be logged.
        values = {f"{stage}/{name}": value.to(self.device) for name, value in self._average_precision.compute().items()}
        self.log_dict(values, prog_bar=True, sync_dist=True, batch_size=1)
        self._average_precision.reset()

    def configure_optimizers(self) -> Any:
        """Build the optimizer and the schedule, from the arguments or from the configuration's ``SOLVER``."""
        total_steps = self.trainer.estimated_stepping_batches
        return build_solver(self.cfg, self.detector, self._optimizer, self._lr_scheduler, total_steps)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the Trainer says, if it does, otherwise as ``SOLVER.CLIP_GRADIENTS`` says."""
        if gradient_clip_val is not None:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        else:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            clip_gradients_from_config(self.cfg, parameters)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the names of the classes, and RetinaNet's running loss normalizer, which is not in the state_dict.

        Raises:
            NonFiniteLossError: the weights come of losses that were not finite: they replace no checkpoint.
        """
        self._look_at_losses()
        if self.category_names is not None:
            checkpoint[CATEGORY_NAMES] = list(self.category_names)
        normalizer = getattr(self.detector, "loss_normalizer", None)
        if normalizer is not None:
            checkpoint[_NORMALIZER_KEY] = float(normalizer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the names of the classes, which must be the data module's, and RetinaNet's loss normalizer."""
        names = category_names_in(checkpoint, "the checkpoint")
        require_same_categories(names, self.category_names)
        self.category_names = names or self.category_names
        checkpoint["state_dict"] = named_as(self.state_dict(), checkpoint["state_dict"])
        if _NORMALIZER_KEY in checkpoint:
            self.detector.loss_normalizer = checkpoint[_NORMALIZER_KEY]

    def export_weights(self, path: str | Path) -> None:
        """Write weights and category names as a Detectron2 checkpoint, ``{"model": state_dict}``.

        Raises:
            UserInputError: the name does not end in ``.pth``, by which Detectron2 knows the format.
        """
        if Path(path).suffix != ".pth":
            raise UserInputError(f"Expected argument `path` to end in '.pth', but got {str(path)!r}.")
        names = {} if self.category_names is None else {CATEGORY_NAMES: list(self.category_names)}
        torch.save({"model": {name: value.cpu() for name, value in self.detector.state_dict().items()}, **names}, path)
