"""What a Detectron2 model takes for objects, with the probability of every class, before anything is suppressed."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from odsg_lightning.detectors.detectron2_model import Detectron2Model, to_input_format
from odsg_lightning.detectors.detectron2_names import RetinaNet
from odsg_lightning.detectors.engine.dense_head import by_anchor
from odsg_lightning.detectors.heads import head_kind, num_classes, of_regions
from odsg_lightning.detectors.ready import check_ready
from odsg_lightning.types import Proposals


def proposals_of(adapter: Detectron2Model, images: Sequence[Tensor]) -> list[Proposals]:
    """Return the anchors, or the regions of interest, whose best class scores above the detector's own threshold.

    Detections that survive suppression have lost the probabilities of their other classes, and those that do not
    survive may fit an object better.

    Args:
        adapter: of the detector, in eval mode.
        images: of one size, each ``[3, H, W]``.

    Returns:
        One record per image, without a graph. Boxes are clipped at the border. Of a region of interest it is the box of
        its best class.

    Raises:
        UserInputError: a detector with another kind of head than RetinaNet's or Faster R-CNN's.
    """
    check_ready(adapter.model)
    model: Any = adapter.model
    of_kind = _of_anchors if head_kind(model) is RetinaNet else _of_regions
    with torch.no_grad(), torch.autocast(images[0].device.type, enabled=False):
        pixels = model.preprocess_image([{"image": to_input_format(image, adapter.input_format)} for image in images])
        found = of_kind(model, pixels, model.backbone(pixels.tensor))
    height, width = images[0].shape[1:]
    most = found[0].boxes.new_tensor([width, height, width, height])
    return [Proposals(torch.minimum(one.boxes.clamp(min=0), most), one.probabilities) for one in found]


def _of_anchors(model: Any, pixels: Any, features: dict[str, Tensor]) -> list[Proposals]:
    used = [features[name] for name in model.head_in_features]
    anchors = torch.cat([level.tensor for level in model.anchor_generator(used)])
    outputs = model.head(used)
    found = []
    for index in range(len(pixels.tensor)):
        logits, deltas = (
            torch.cat([by_anchor(level[index : index + 1], numbers) for level in levels])
            for levels, numbers in zip(outputs, (num_classes(model), 4), strict=True)
        )
        keep = logits.amax(dim=1).sigmoid() > model.test_score_thresh
        boxes = model.box2box_transform.apply_deltas(deltas[keep], anchors[keep])
        found.append(Proposals(boxes, logits[keep].sigmoid()))
    return found


def _of_regions(model: Any, pixels: Any, features: dict[str, Tensor]) -> list[Proposals]:
    regions = [of_image.proposal_boxes.tensor for of_image in model.proposal_generator(pixels, features, None)[0]]
    logits, deltas = of_regions(model, features, regions)
    predictor = model.roi_heads.box_predictor
    boxes = predictor.box2box_transform.apply_deltas(deltas, torch.cat(regions))
    probabilities = logits.softmax(dim=1)[:, :-1]
    best, label = probabilities.max(dim=1)
    if boxes.shape[1] > 4:  # a box of its own for each class
        boxes = boxes.reshape(len(boxes), -1, 4)[torch.arange(len(boxes), device=boxes.device), label]
    keep = (best > predictor.test_score_thresh).split([len(of_image) for of_image in regions])
    split = zip(*(values.split([len(kept) for kept in keep]) for values in (boxes, probabilities)), keep, strict=True)
    return [Proposals(box[kept], probability[kept]) for box, probability, kept in split]
