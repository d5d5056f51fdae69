"""What the maps may be of: the numbers that a detector returns, or those of the anchors or regions behind them."""

import torch
from torch import Tensor

from odsg_lightning.errors import UserInputError
from odsg_lightning.saliency.protocol import CandidateDetector, CandidateOutputs, Detector
from odsg_lightning.types import Detections


def candidate_detector(detector: Detector) -> CandidateDetector:
    """Return a detector that can be asked for the numbers of its anchors or regions.

    Raises:
        UserInputError: this one cannot.
    """
    if not isinstance(detector, CandidateDetector):
        raise UserInputError(
            "Expected a detector whose numbers before decoding can be asked for, but "
            f"{type(detector).__name__} returns detections alone: target='output' explains these."
        )
    return detector


def as_detections(outputs: CandidateOutputs, image: Tensor) -> Detections:
    """Return what the head says of candidates in an image ``[3, H, W]``: unclipped boxes, and *scores* from 0 to 1."""
    with torch.no_grad():
        (numbers,) = outputs.detect([image])
        return Detections(numbers.boxes, outputs.probabilities(image), numbers.labels).detach()
