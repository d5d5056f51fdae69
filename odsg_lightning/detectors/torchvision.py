"""torchvision's detectors as differentiable detectors."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.ssd import SSD

from odsg_lightning.detectors.model_adapter import ModelAdapter
from odsg_lightning.types import Detections

WITH_BACKGROUND = (GeneralizedRCNN, SSD)
"""Softmax over the classes and the background, whose label is 0; the others have a sigmoid for each class."""

SUPPORTED = (*WITH_BACKGROUND, RetinaNet, FCOS)


class TorchvisionAdapter(ModelAdapter):
    """Explains what a torchvision detector returns: its final boxes and scores, after decoding, clipping and NMS.

    The detector resizes each image by itself: boxes and gradients are in pixels of the image that was given, before
    that. A coordinate that is clipped at the border has a gradient of exactly zero: its map is undefined. Faster R-CNN
    detaches the boxes of its proposals, so the gradients flow through the RoI features only, as in Detectron2.

    Args:
        model: a RetinaNet, FCOS, SSD or SSDlite, or a Faster R-CNN; Mask and Keypoint R-CNN are audited by their boxes.
            In eval mode and single precision.
        labels: the model's label of each class, in the order of the COCO file's category ids; detections of other
            labels are left out. By default 1, 2, ... where 0 is the background (Faster R-CNN, SSD), and otherwise 0,
            1, ... (RetinaNet, FCOS). torchvision's own COCO weights have the category ids as labels, 1 to 90.
        preprocess: makes what the model is given of an RGB image ``[3, H, W]``, 0 to 255, of the same size and
            differentiably. By default it divides by 255.

    Raises:
        ValueError: a model that is not one of these.

    Example:
        >>> from torchvision.models.detection import ssdlite320_mobilenet_v3_large
        >>> model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).eval()
        >>> [detections] = TorchvisionAdapter(model).detect([torch.zeros(3, 32, 48)])
        >>> detections.labels.unique()  # an untrained detector finds both classes everywhere
        tensor([0, 1])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        labels: Sequence[int] | None = None,
        preprocess: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """See the class for the arguments."""
        if not is_detector(model):
            names = ", ".join(cls.__name__ for cls in SUPPORTED)
            raise ValueError(f"Expected one of torchvision's detectors ({names}), but got {type(model).__name__}.")
        super().__init__(model, labels)
        self._preprocess = preprocess or _divide_by_255

    def detect(self, images: Sequence[Tensor]) -> list[Detections]:
        """See :meth:`ModelAdapter.detect`."""
        found = []
        for image in images:
            with self._few_proposals(image) if torch.is_grad_enabled() else nullcontext():
                found += self._run([image])
        return found

    @contextmanager
    def _few_proposals(self, image: Tensor) -> Iterator[None]:
        """Let a Faster R-CNN have those proposals alone that become detections: the graph of a thousand is slow.

        What is detected stays the same up to rounding: suppression is by what is detected itself.
        """
        model: Any = self.model
        if type(getattr(model, "roi_heads", None)) is not RoIHeads:
            yield
            return
        logits: list[Tensor] = []
        with torch.no_grad(), _hook(model.roi_heads.box_predictor, lambda outputs: logits.append(outputs[0])):
            (found,) = self._outputs([image])
        kept = (logits[0].softmax(-1)[:, found["labels"]] == found["scores"]).any(dim=1)
        with _hook(model.rpn, lambda outputs: ([outputs[0][0][kept]], outputs[1])):
            yield

    def _found(self, images: Sequence[Tensor]) -> Sequence[Mapping[str, Tensor]]:
        found: list[dict[str, Tensor]] = self.model([self._preprocess(image) for image in images])
        return found

    def _detections(self, found: Mapping[str, Tensor]) -> Detections:
        behind_background = self._labels is None and isinstance(self.model, WITH_BACKGROUND)
        return super()._detections({**found, "labels": found["labels"] - int(behind_background)})


def is_detector(module: nn.Module) -> bool:
    """Whether a module is a detector that the adapter takes; subclasses are."""
    return isinstance(module, SUPPORTED)


def adapter_of(model: nn.Module, module: nn.Module) -> TorchvisionAdapter:
    """Return the adapter of such a detector, trained on images from 0 to 1 and on labels of the default base."""
    return TorchvisionAdapter(model)


@contextmanager
def _hook(module: nn.Module, change: Callable[[Any], Any]) -> Iterator[None]:
    """Let a module return what ``change`` makes of its outputs; None leaves them."""
    handle = module.register_forward_hook(lambda _, args, outputs: change(outputs))
    try:
        yield
    finally:
        handle.remove()


def _divide_by_255(image: Tensor) -> Tensor:
    return image / 255
