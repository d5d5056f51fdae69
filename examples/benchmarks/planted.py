"""A full-size detector that behaves like a trained one on one picture, without weights and within a minute.

Timing gradients needs objects that are detected, and found again under noise. There are no weights here, and training
a ResNet-50 takes days. So: random weights; BatchNorm statistics from the picture, then frozen as in Detectron2's model
zoo; residual branches damped, as training leaves them; and the last linear layers in closed form
(:mod:`planting`), so that the shapes in the picture are detected. Every layer has its full size; each object is at the
pyramid level where Detectron2's anchors and RoIs of its size are; its box and its score are smooth functions of the
features. How long gradients take does not depend on the values of the weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from planting import RPN_PENALTIES, DenseHead, plant_predictor, standardise
from scene import draw_scene, place_boxes
from torch import Tensor, nn

from odsg_lightning.detectors.build import build_detector, load_config
from odsg_lightning.detectors.detectron2 import Detectron2Adapter, to_input_format
from odsg_lightning.detectors.detectron2_names import Boxes, FrozenBatchNorm2d, RetinaNet
from odsg_lightning.saliency.matching import match_one_to_one
from odsg_lightning.saliency.noise import image_generator, noisy_images
from odsg_lightning.types import AuditSample

SIGMA = 0.05  # of the noise, relative to the pixel range: SmoothGrad's own
_LEAST_SCORE, _LEAST_IOU = 0.5, 0.7
_FRESH = 3  # noisy images that no regression has seen, on which the objects must be found again


@dataclass(frozen=True)
class Planted:
    """A detector and the picture it was made for.

    Attributes:
        model: Detectron2's module, in eval mode, every parameter frozen.
        image: ``[3, H, W]`` RGB, 0 to 255.
        indices: of the planted objects among the detections of ``image``.
        boxes: ``[K, 4]`` XYXY of the shapes in the picture, in the order of ``indices``.
    """

    model: nn.Module
    image: Tensor
    indices: list[int]
    boxes: Tensor


@torch.no_grad()
def plant(name: str, height: int, width: int, count: int, size: int, seed: int = 0, copies: int = 3) -> Planted:
    """Make a detector that detects ``count`` objects of about ``size`` px.

    Args:
        name: a name from ``configs/detectors``: a RetinaNet or a Faster R-CNN with an FPN.
        height: of the image, in pixels.
        width: of the image, in pixels.
        count: number of objects.
        size: side of an object, in pixels.
        seed: of weights, picture and noise.
        copies: noisy copies of the picture that the last layers are solved on, besides the picture itself.

    Raises:
        ValueError: the objects do not fit the image.
        RuntimeError: fewer than ``count`` were detected with a score above 0.5, or found again under fresh noise with
            an IoU of at least 0.7.
    """
    generator = torch.Generator().manual_seed(seed)
    boxes = place_boxes(height, width, count, size, generator)
    image = draw_scene(height, width, boxes, generator)
    images = [image, *noisy_images(image, copies, SIGMA, image_generator(seed, 0))]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        # FREEZE_AT would turn the stem's and the first stage's BatchNorm into a FrozenBatchNorm without statistics.
        model = build_detector(load_config(name, {"MODEL.RESNETS.NORM": "BN", "MODEL.BACKBONE.FREEZE_AT": 0}))
    _calibrate_backbone(model, images[:2])
    model.eval().requires_grad_(False)
    if isinstance(model, RetinaNet):
        _plant_retinanet(model, images, boxes, generator)
    else:
        _plant_faster_rcnn(model, images, boxes, generator)
    return Planted(model, image, _stable_indices(model, image, boxes, seed), boxes)


def box_sample(image: Tensor, boxes: Tensor, labels: Tensor) -> AuditSample:
    """Return a picture ``[3, H, W]`` whose objects fill their boxes ``[K, 4]``, as an audit takes it."""
    rows, columns = torch.arange(image.shape[1])[:, None], torch.arange(image.shape[2])
    masks = [(rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1) for x0, y0, x1, y1 in boxes.tolist()]
    return AuditSample(image, boxes, labels, torch.stack(masks), 0, tuple(range(len(boxes))))


def _batch(model: nn.Module, image: Tensor) -> Tensor:
    """Normalise and pad an image as the detector does it."""
    batch: Tensor = model.preprocess_image([{"image": to_input_format(image, model.input_format)}]).tensor
    return batch


def _calibrate_backbone(model: nn.Module, images: Sequence[Tensor]) -> None:
    """Give the BatchNorms the statistics of the images, freeze them, and standardise the pyramid's outputs."""
    bottom_up = model.backbone.bottom_up.train()
    for module in bottom_up.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics of the one batch
    blocks = [block for stage in bottom_up.stages for block in stage]
    for block in blocks:
        block.conv3.norm.weight.fill_(len(blocks) ** -0.5)  # undamped, each block of random weights adds to the noise
    # Trained stems see colours and edges, not single pixels: random ones would pass on little else than the noise.
    stem = bottom_up.stem.conv1.weight
    stem.copy_(nn.functional.interpolate(stem[:, :, :2, :2], size=stem.shape[2:], mode="bilinear", align_corners=True))
    bottom_up(torch.cat([_batch(model, image) for image in images]))
    model.backbone = FrozenBatchNorm2d.convert_frozen_batchnorm(model.backbone)
    model.backbone.eval()

    def standardised(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        standardise(layer, [output])
        return layer.forward(*inputs)

    outputs = [*model.backbone.output_convs]
    outputs += [layer for layer in getattr(model.backbone.top_block, "children", list)() if hasattr(layer, "weight")]
    hooks = [layer.register_forward_hook(standardised) for layer in outputs]
    model.backbone(_batch(model, images[0]))
    for hook in hooks:
        hook.remove()


def _plant_retinanet(model: nn.Module, images: Sequence[Tensor], boxes: Tensor, generator: torch.Generator) -> None:
    pyramids = [_levels(model.backbone(_batch(model, image)), model.head_in_features) for image in images]
    subnets = model.head.cls_subnet, model.head.bbox_subnet
    for subnet in subnets:
        values = pyramids[0]
        for layer in subnet:
            if isinstance(layer, nn.Conv2d):
                standardise(layer, [layer(value) for value in values])
            values = [layer(value) for value in values]
    anchors = [level.tensor for level in model.anchor_generator(pyramids[0])]
    hidden = [[(subnets[0](level), subnets[1](level)) for level in pyramid] for pyramid in pyramids]
    head = DenseHead(model.head.cls_score, model.head.bbox_pred, model.box2box_transform, model.num_classes)
    head.plant(hidden, anchors, boxes, generator)


def _plant_faster_rcnn(model: nn.Module, images: Sequence[Tensor], boxes: Tensor, generator: torch.Generator) -> None:
    pyramids = [model.backbone(_batch(model, image)) for image in images]
    rpn, roi_heads = model.proposal_generator, model.roi_heads
    levels = [_levels(pyramid, rpn.in_features) for pyramid in pyramids]
    conv = rpn.rpn_head.conv
    standardise(conv, [nn.functional.conv2d(level, conv.weight, conv.bias, padding=1) for level in levels[0]])
    hidden = [[(conv(level),) * 2 for level in pyramid] for pyramid in levels]
    anchors = [level.tensor for level in rpn.anchor_generator(levels[0])]
    head = DenseHead(
        rpn.rpn_head.objectness_logits, rpn.rpn_head.anchor_deltas, rpn.box2box_transform, 1, RPN_PENALTIES
    )
    head.plant(hidden, anchors, boxes, generator)
    pooled, proposals = [], []
    for image, pyramid in zip(images, pyramids, strict=True):
        inputs = model.preprocess_image([{"image": to_input_format(image, model.input_format)}])
        (found,), _ = rpn(inputs, pyramid)
        proposals.append(torch.cat([found.proposal_boxes.tensor, _jittered(boxes, generator)]))
        features = [pyramid[name] for name in roi_heads.box_in_features]
        pooled.append(roi_heads.box_pooler(features, [Boxes(proposals[-1])]))
    values = pooled[0]
    for layer in roi_heads.box_head:
        if isinstance(layer, nn.Linear):
            standardise(layer, [layer(values)])
        values = layer(values)
    rows = torch.cat([roi_heads.box_head(values) for values in pooled])
    plant_predictor(roi_heads.box_predictor, rows, torch.cat(proposals), boxes)


def _levels(pyramid: dict[str, Tensor], names: Sequence[str]) -> list[Tensor]:
    return [pyramid[name] for name in names]


def _jittered(boxes: Tensor, generator: torch.Generator, count: int = 20) -> Tensor:
    """Return boxes around each box, as proposals are: ``[K * count, 4]``."""
    repeated = boxes.repeat_interleave(count, dim=0)
    sides = (repeated[:, 2:] - repeated[:, :2]).repeat(1, 2)
    return repeated + 0.1 * sides * torch.randn(repeated.shape, generator=generator)


def _stable_indices(model: nn.Module, image: Tensor, boxes: Tensor, seed: int) -> list[int]:
    """Return which detections are the planted objects, or say which are missing."""
    detector = Detectron2Adapter(model)
    labels = torch.arange(len(boxes))
    (clean,) = detector.detect([image])
    matches, _ = match_one_to_one(boxes, labels, clean.boxes, clean.labels, 0.5)
    scores = torch.cat([clean.scores, clean.scores.new_zeros(1)])[matches]  # -1 stands for none, and is the last
    missed = (scores <= _LEAST_SCORE).nonzero().flatten().tolist()
    if missed:
        raise RuntimeError(
            f"Expected every planted object to be detected, but objects {missed} of {boxes.tolist()} are not."
        )
    reference = clean.boxes[matches], labels
    for noisy in noisy_images(image, _FRESH, SIGMA, image_generator(seed, 1)):
        (found,) = detector.detect([noisy])
        again, _ = match_one_to_one(*reference, found.boxes, found.labels, _LEAST_IOU)
        lost = (again < 0).nonzero().flatten().tolist()
        if lost:
            raise RuntimeError(_advice("to withstand noise", lost, boxes))
    return matches.tolist()


def _advice(what: str, lost: list[int], boxes: Tensor) -> str:
    return (
        f"Expected all {len(boxes)} planted objects {what}, but {len(lost)} did not, at "
        f"{boxes[lost].round().int().tolist()}. Try another seed, or more copies of the picture."
    )
