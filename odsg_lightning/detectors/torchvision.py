"""torchvision's detectors as differentiable detectors."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.ssd import SSD

from odsg_lightning.detectors.chosen_labels import with_labels
from odsg_lightning.detectors.ready import check_ready
from odsg_lightning.types import Detections

_WITH_BACKGROUND = (GeneralizedRCNN, SSD)
"""Softmax over the classes and the background, whose label is 0; the others have a sigmoid for each class."""

SUPPORTED = (*_WITH_BACKGROUND, RetinaNet, FCOS)


class TorchvisionAdapter:
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
        self.model = model
        self._labels = labels
        self._preprocess = preprocess or _divide_by_255

    def detect(self, images: Sequence[Tensor]) -> list[Detections]:
        """See :class:`odsg_lightning.saliency.protocol.Detector`.

        One image at a time: torchvision pads a batch to its largest image, and what is detected depends on the padding.

        Raises:
            RuntimeError: the model is in training mode, or has parameters of half precision.
        """
        found = []
        for image in images:
            with self._few_proposals(image) if torch.is_grad_enabled() else nullcontext():
                found += self._run([image])
        return found

    def detect_batch(self, images: Sequence[Tensor]) -> list[Detections]:
        """See :class:`odsg_lightning.saliency.protocol.BatchDetector`."""
        with torch.no_grad():
            return self._run(images)

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

    def _run(self, images: Sequence[Tensor]) -> list[Detections]:
        return [self._detections(output) for output in self._outputs(images)]

    def _outputs(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        check_ready(self.model)
        with torch.autocast(images[0].device.type, enabled=False):
            outputs: list[dict[str, Tensor]] = self.model([self._preprocess(image) for image in images])
        return outputs

    def _detections(self, output: dict[str, Tensor]) -> Detections:
        boxes, scores, labels = output["boxes"], output["scores"], output["labels"]
        if self._labels is None:
            return Detections(boxes, scores, labels - int(isinstance(self.model, _WITH_BACKGROUND)))
        return with_labels(Detections(boxes, scores, labels), self._labels)


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
