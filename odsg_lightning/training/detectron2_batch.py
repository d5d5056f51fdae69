"""Between this package's batches and Detectron2's: RGB and XYXY tensors on one side, ``Instances`` on the other.

A batch is a list with one dictionary per image:

======================= =========================================================================================
``image``               ``[3, H, W]`` RGB, uint8 or float, 0 to 255, at the size the detector sees
``boxes``, ``labels``   ``[G, 4]`` float32 XYXY in pixels of ``image``, and ``[G]`` int64 class indices (training)
``masks``               ``[G, H, W]`` bool (training with ``MODEL.MASK_ON``)
``image_id``            COCO image id
``height``, ``width``   size of the original image in pixels
``target``              ``boxes`` ``[G, 4]`` XYXY in original pixels, ``labels`` and ``iscrowd`` ``[G]`` (evaluation)
======================= =========================================================================================
"""

from collections.abc import Sequence
from typing import Any

from torch import nn

from odsg_lightning.detectors.detectron2 import to_input_format
from odsg_lightning.detectors.detectron2_names import BitMasks, Boxes, Instances
from odsg_lightning.errors import UserInputError
from odsg_lightning.types import Detections


def training_inputs(batch: Sequence[dict[str, Any]], input_format: str, masks: bool = False) -> list[dict[str, Any]]:
    """Return a batch as Detectron2 wants it in training: the image and its ground truth as ``Instances``.

    Args:
        batch: see above.
        input_format: the detector's channel order.
        masks: whether it is trained on masks, too.

    Raises:
        UserInputError: there are no masks where they are needed.
    """
    inputs = []
    for sample in batch:
        image = to_input_format(sample["image"], input_format)
        instances = Instances((image.shape[1], image.shape[2]))
        instances.gt_boxes = Boxes(sample["boxes"])
        instances.gt_classes = sample["labels"]
        if masks:
            if "masks" not in sample:
                raise UserInputError(
                    "Expected `masks` [G, H, W] in each sample of the batch, because MODEL.MASK_ON is true, but got "
                    f"{sorted(sample)}. Add them, take CocoDetectionDataModule as the Trainer's data module, which "
                    "does it by itself, or set MODEL.MASK_ON to false."
                )
            instances.gt_masks = BitMasks(sample["masks"])
        inputs.append({"image": image, "instances": instances})
    return inputs


def evaluation_inputs(batch: Sequence[dict[str, Any]], input_format: str) -> list[dict[str, Any]]:
    """Return a batch as Detectron2 wants it in evaluation: it scales its boxes to ``height`` and ``width``."""
    return [
        {
            "image": to_input_format(sample["image"], input_format),
            "height": int(sample["height"]),
            "width": int(sample["width"]),
        }
        for sample in batch
    ]


def detect(detector: nn.Module, inputs: list[dict[str, Any]]) -> list[Detections]:
    """Run a Detectron2 detector in evaluation mode.

    Args:
        detector: RetinaNet or GeneralizedRCNN.
        inputs: ``image`` in the detector's channel order, with ``height`` and ``width`` to scale the boxes to.

    Raises:
        RuntimeError: the detector is in training mode, in which it returns losses.
    """
    if detector.training:
        raise RuntimeError("Expected a detector in evaluation mode, but it is in training mode: call `.eval()` first.")
    results = [output["instances"] for output in detector(inputs)]
    return [Detections(r.pred_boxes.tensor.float(), r.scores.float(), r.pred_classes) for r in results]
