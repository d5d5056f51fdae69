"""Detectron2's RetinaNet and Faster R-CNN as differentiable detectors."""

from collections.abc import Sequence

from torch import Tensor, nn

from odsg_lightning.detectors.candidates import (
    Detectron2Candidates,
    candidates_for_objects,
    candidates_of_detections,
    confident_candidates,
)
from odsg_lightning.detectors.detectron2_model import SUPPORTED, Detectron2Model, to_input_format
from odsg_lightning.detectors.proposals import proposals_of
from odsg_lightning.saliency.protocol import CandidateOutputs
from odsg_lightning.types import Candidates, Detections, Proposals

__all__ = ["SUPPORTED", "Detectron2Adapter", "adapter_of", "is_detector", "to_input_format"]


class Detectron2Adapter(Detectron2Model):
    """Explains what a Detectron2 model returns: its final boxes and scores, after decoding, clipping and NMS.

    A coordinate that Detectron2 clipped at the image border has a gradient of exactly zero: its map is undefined.
    In two-stage models (Faster R-CNN) Detectron2 computes the proposals without a graph, so the gradients flow through
    the RoI features only, not through the proposal boxes.

    Args:
        model: a RetinaNet or a GeneralizedRCNN with a box head, in eval mode and single precision.
        input_format: channel order that the model expects, ``"BGR"`` or ``"RGB"``; the model's own by default.

    Raises:
        ValueError: a model or a channel order that is not one of these.
    """

    def candidates_of_detections(self, image: Tensor) -> tuple[Detections, Candidates]:
        """See :class:`odsg_lightning.saliency.protocol.CandidateDetector`, also for the next three.

        Raises:
            UserInputError: a detector with another kind of head than RetinaNet's or Faster R-CNN's.
        """
        return candidates_of_detections(self, image)

    def candidates_for_objects(self, image: Tensor, boxes: Tensor, labels: Tensor) -> Candidates:
        """RetinaNet: the anchor with the highest IoU, the first of several; Faster R-CNN: the object's box."""
        return candidates_for_objects(self, image, boxes, labels)

    def confident_candidates(self, image: Tensor, threshold: float) -> Candidates:
        """Anchors, or region proposals: once for each class that scores above the threshold."""
        return confident_candidates(self, image, threshold)

    def outputs_of(self, candidates: Candidates) -> CandidateOutputs:
        """A region proposal network is not run."""
        return Detectron2Candidates(self, candidates)

    def proposals(self, images: Sequence[Tensor]) -> list[Proposals]:
        """See :class:`odsg_lightning.saliency.protocol.ProposingDetector`; above the detector's own threshold."""
        return proposals_of(self, images)


def is_detector(module: nn.Module) -> bool:
    """Whether a module is a detector that the adapter takes; subclasses are."""
    return isinstance(module, SUPPORTED)


def adapter_of(model: nn.Module, module: nn.Module) -> Detectron2Adapter:
    """Return the adapter of such a detector, wherever it was found."""
    return Detectron2Adapter(model)
