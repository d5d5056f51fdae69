"""A Detectron2 model as a differentiable detector, plain or by a fast engine."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from odsg_lightning.detectors.detectron2_names import Boxes, GeneralizedRCNN, RetinaNet
from odsg_lightning.detectors.engine.choose import EngineParts, choose_engine
from odsg_lightning.detectors.engine.cut import CutBatch, CutLinearization, warn_of_fallback
from odsg_lightning.detectors.engine.head import Head
from odsg_lightning.detectors.engine.samples import batchable, in_batches
from odsg_lightning.detectors.engine.window import UnsupportedModelError
from odsg_lightning.detectors.ready import check_ready
from odsg_lightning.saliency.gradients import AutogradLinearization, SingleLinearization
from odsg_lightning.saliency.memory import images_at_once
from odsg_lightning.saliency.options import Engine, Precision
from odsg_lightning.saliency.protocol import EngineChoice, JointLinearization, Linearization
from odsg_lightning.types import Detections

SUPPORTED = (RetinaNet, GeneralizedRCNN)


class Detectron2Model:
    """Runs a Detectron2 model on images; see :class:`odsg_lightning.detectors.detectron2.Detectron2Adapter`.

    Args:
        model: a RetinaNet or a GeneralizedRCNN with a box head, in eval mode and single precision.
        input_format: channel order that the model expects, ``"BGR"`` or ``"RGB"``; the model's own by default.

    Raises:
        ValueError: a model or a channel order that is not one of these.
    """

    _images_at_once: int | None = None  # by the device and its free memory

    def __init__(self, model: nn.Module, input_format: str | None = None) -> None:
        """See the class for the arguments."""
        if not isinstance(model, SUPPORTED):
            names = " or ".join(cls.__name__ for cls in SUPPORTED)
            raise ValueError(f"Expected a Detectron2 {names}, but got {type(model).__name__}.")
        self.model = model
        self.input_format = input_format or getattr(model, "input_format", None) or "BGR"
        if self.input_format not in ("BGR", "RGB"):
            raise ValueError(f"Expected argument `input_format` to be 'BGR' or 'RGB', but got {self.input_format!r}.")

    def detect(self, images: Sequence[Tensor]) -> list[Detections]:
        """Detect objects in RGB images; see :class:`odsg_lightning.saliency.protocol.Detector`.

        Raises:
            RuntimeError: the model is in training mode, or has parameters of half precision.
        """
        check_ready(self.model)
        # One at a time: Detectron2 0.5 pads a batch, and takes the sigmoid of its logits, in place on shared views,
        # which autograd refuses.
        return [self._detect_one(image) for image in images]

    def detect_batch(self, images: Sequence[Tensor]) -> list[Detections]:
        """See :class:`odsg_lightning.saliency.protocol.BatchDetector`: in two thirds of the time of one by one."""
        check_ready(self.model)
        with torch.no_grad():
            return [_detections(instances) for instances in self._instances(images)]

    def linearize(
        self, image: Tensor, *, engine: Engine = "auto", precision: Precision = "full", trim: float = 0.0
    ) -> Linearization:
        """Run the detector on one image and keep what the gradients need.

        A detector that turns out, in this forward pass, not to be what the engine knows is linearized by plain
        autograd, with a ``RuntimeWarning`` that says why.

        Args:
            image: ``[3, H, W]`` RGB, float, 0 to 255.
            engine: see :func:`odsg_lightning.detectors.engine.choose.choose_engine`.
            precision: of the linear backward pass.
            trim: likewise.

        Raises:
            ValueError: an engine or a precision of another name; a share out of range.
            RuntimeError: the model is in training mode, or has parameters of half precision.
        """
        batch = self._run_together([image.detach()], (engine, precision, trim))
        return CutLinearization(batch) if isinstance(batch, CutBatch) else batch.linearization

    def linearize_together(
        self, images: Iterable[Tensor], *, engine: Engine = "auto", precision: Precision = "full", trim: float = 0.0
    ) -> Iterator[JointLinearization]:
        """Run the detector on several images of one size, as many at a time as pays.

        The windowed engine takes several small images at once, and on CUDA as many as a share of the free memory holds;
        when memory runs out, half as many, down to one.
        """
        images = iter(images)
        first = next(images, None)
        if first is None:
            return
        limit = self._images_at_once or images_at_once(first, self.model.get_buffer("pixel_mean").device)
        asked = engine, precision, trim
        if limit > 1 and not batchable(self.model, self._engine(*asked).backbone):
            limit = 1
        yield from in_batches(chain([first], images), limit, partial(self._run_together, asked=asked))

    def _run_together(
        self, images: list[Tensor], asked: tuple[Engine, Precision, float]
    ) -> CutBatch | SingleLinearization:
        """Linearize at images of one size.

        Raises:
            UnsupportedModelError: several at a time are not what the engine knows.
        """

        def plain(image: Tensor) -> Linearization:
            with torch.inference_mode(False), torch.enable_grad():
                return AutogradLinearization(self, image)

        check_ready(self.model)
        _, head, backbone = self._engine(*asked)
        if head is not None and backbone is not None:
            detect = partial(self._detect_one, head=head)
            try:
                return CutBatch(self.model, head, backbone, images, self.input_format, detect, plain)
            except UnsupportedModelError as reason:
                if len(images) > 1:
                    raise
                warn_of_fallback(reason)
        return SingleLinearization(plain(images[0]))

    def choose_engine(self, engine: Engine = "auto", precision: Precision = "full", trim: float = 0.0) -> EngineChoice:
        """Return which engine :meth:`linearize` uses for the model as it is now, and why.

        Raises:
            ValueError: an engine or a precision of another name; a share out of range.
        """
        return self._engine(engine, precision, trim).choice

    def _engine(self, engine: Engine, precision: Precision, trim: float = 0.0) -> EngineParts:
        return choose_engine(self.model, engine, precision, trim)

    def _detect_one(self, image: Tensor, head: Head | None = None) -> Detections:
        """Run the model on one image; ``head`` records it, if one does."""
        (instances,) = self._instances([image])
        return _detections(instances)

    def _instances(self, images: Sequence[Tensor]) -> list[Any]:
        asked = [
            {"image": to_input_format(image, self.input_format), "height": image.shape[1], "width": image.shape[2]}
            for image in images
        ]
        with torch.autocast(images[0].device.type, enabled=False):
            found = [result["instances"] for result in self.model(asked)]
        if type(found[0].pred_boxes) is not Boxes:  # RotatedBoxes are a subclass
            raise RuntimeError(
                f"Expected axis-aligned boxes (XYXY), but the model returned {type(found[0].pred_boxes).__name__}: "
                "rotated boxes have no x_min, y_min, x_max, y_max to explain."
            )
        return found


def _detections(instances: Any) -> Detections:
    return Detections(instances.pred_boxes.tensor, instances.scores, instances.pred_classes)


def to_input_format(image: Tensor, input_format: str) -> Tensor:
    """Return an RGB image ``[3, H, W]`` in the channel order of ``INPUT.FORMAT``.

    Raises:
        ValueError: the image does not have three channels, or the format is neither ``"BGR"`` nor ``"RGB"``.
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"Expected an RGB image [3, H, W], but got {tuple(image.shape)}.")
    if input_format not in ("BGR", "RGB"):
        raise ValueError(f"Expected INPUT.FORMAT to be 'BGR' or 'RGB', but got {input_format!r}.")
    return image.flip(0) if input_format == "BGR" else image
