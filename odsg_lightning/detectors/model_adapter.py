"""What the adapters of models that return dictionaries of boxes, scores and labels have in common."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from odsg_lightning.detectors.chosen_labels import with_labels
from odsg_lightning.detectors.ready import check_ready
from odsg_lightning.types import Detections


class ModelAdapter(ABC):
    """Runs a model without autocast, alone for gradients and on several images of one size without.

    Args:
        model: in eval mode and single or double precision.
        labels: the model's label of each class; None if they are the classes already.
    """

    def __init__(self, model: nn.Module, labels: Sequence[int] | None) -> None:
        """See the class for the arguments."""
        self.model = model
        self._labels = labels

    def detect(self, images: Sequence[Tensor]) -> list[Detections]:
        """See :class:`odsg_lightning.saliency.protocol.Detector`.

        One image at a time: none is padded to the size of another, on which what is detected would depend.

        Raises:
            RuntimeError: the model is in training mode, or has parameters of half precision.
        """
        return [self._run([image])[0] for image in images]

    def detect_batch(self, images: Sequence[Tensor]) -> list[Detections]:
        """See :class:`odsg_lightning.saliency.protocol.BatchDetector`."""
        with torch.no_grad():
            return self._run(images)

    @abstractmethod
    def _found(self, images: Sequence[Tensor]) -> Sequence[Mapping[str, Tensor]]:
        """Return ``boxes``, ``scores`` and ``labels`` of each image; they have one size."""

    def _outputs(self, images: Sequence[Tensor]) -> Sequence[Mapping[str, Tensor]]:
        check_ready(self.model)
        with torch.autocast(images[0].device.type, enabled=False):
            return self._found(images)

    def _run(self, images: Sequence[Tensor]) -> list[Detections]:
        return [self._detections(found) for found in self._outputs(images)]

    def _detections(self, found: Mapping[str, Tensor]) -> Detections:
        return with_labels(Detections(found["boxes"], found["scores"], found["labels"]), self._labels)
