"""COCO average precision over all processes, each image counted once."""

from typing import Any, Literal

import torch.distributed
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from odsg_lightning.types import Detections

Backend = Literal["pycocotools", "faster_coco_eval"]

_TARGET_KEYS = ("boxes", "labels", "iscrowd")
_REPORTED = ("map", "map_50", "map_75")


class CocoAveragePrecision:
    """Collects detections and ground truth by image, and computes average precision with torchmetrics.

    The metric's own synchronisation exchanges image by image and breaks down when the processes saw unequal numbers of
    images; and a distributed sampler that pads its shares repeats images. Here all images are gathered in one exchange,
    and an image that comes twice counts once.

    Args:
        backend: what computes it.

    Raises:
        ModuleNotFoundError: the backend is not installed.
    """

    def __init__(self, backend: Backend) -> None:
        """Check that the backend is there."""
        self._metric = MeanAveragePrecision(box_format="xyxy", backend=backend)
        self._images: dict[int, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}

    def update(self, image_id: int, detections: Detections, target: dict[str, Any]) -> None:
        """Add an image.

        Args:
            image_id: COCO image id.
            detections: in the pixels of ``target``.
            target: ``boxes`` ``[G, 4]`` XYXY, ``labels`` ``[G]`` and ``iscrowd`` ``[G]``.
        """
        predicted = {"boxes": detections.boxes, "scores": detections.scores, "labels": detections.labels}
        truth = {key: target[key] for key in _TARGET_KEYS}
        self._images[int(image_id)] = _on_cpu(predicted), _on_cpu(truth)

    def compute(self) -> dict[str, Tensor]:
        """Return ``map``, ``map_50`` and ``map_75`` over the images of all processes; every process must call this.

        The values are the same in every process; -1 where there is no ground truth, as in COCO's own tool.
        """
        images = self._images
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parts: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, images)
            images = {image_id: image for part in parts for image_id, image in part.items()}
        self._metric.reset()
        # In the order of their ids: otherwise ties between scores would be broken by which process saw an image.
        for _, (predicted, truth) in sorted(images.items()):
            self._metric.update([predicted], [truth])
        values = self._metric.compute()
        self._metric.reset()
        return {name: values[name] for name in _REPORTED}

    def reset(self) -> None:
        """Forget all images."""
        self._images.clear()


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}
