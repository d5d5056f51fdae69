"""What a Detectron2 head says of anchors or regions of interest: class logits, and boxes that no border clips.

The first method of Gwon & Howell (2023) explains these numbers, before decoding: of a *fixed* anchor or region, so that
they exist whatever else is detected, for any class, and for objects that are missed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from odsg_lightning.detectors.detectron2_model import Detectron2Model, to_input_format
from odsg_lightning.detectors.detectron2_names import RetinaNet
from odsg_lightning.detectors.engine.choose import EngineParts
from odsg_lightning.detectors.engine.dense_head import ChosenAnchors, DenseHead, by_anchor
from odsg_lightning.detectors.engine.head import Head
from odsg_lightning.detectors.engine.parameters import frozen
from odsg_lightning.detectors.features import CandidateFeatures, layer_names
from odsg_lightning.detectors.heads import head_kind, num_classes, of_regions
from odsg_lightning.detectors.proposals import proposals_of
from odsg_lightning.detectors.ready import check_ready
from odsg_lightning.errors import UserInputError
from odsg_lightning.saliency.options import Engine, Precision
from odsg_lightning.types import Candidates, Detections, Proposals


class Detectron2Candidates(Detectron2Model):
    """A detector that returns, for the same anchors or regions of every image, logit and unclipped box.

    ``detect`` returns one "detection" for each candidate, in their order: its score is the class *logit*, or the
    difference of two, unbounded. Nothing is decoded, clipped or suppressed, and a region proposal network is not run.

    Args:
        adapter: of the detector.
        candidates: of one image; other images must have its size.

    Raises:
        UserInputError: a detector with another kind of head, or a class that it does not know.
    """

    def __init__(self, adapter: Detectron2Model, candidates: Candidates) -> None:
        """See the class for the arguments."""
        super().__init__(adapter.model, adapter.input_format)
        self._head_kind = head_kind(adapter.model)
        known = num_classes(adapter.model)
        for labels, least in ((candidates.labels, 0), (candidates.against, -1)):
            if len(labels) and not (least <= int(labels.min()) and int(labels.max()) < known):
                raise UserInputError(f"Expected classes from 0 to {known - 1}, but got {labels.tolist()}.")
        self.candidates = candidates

    def probabilities(self, image: Tensor) -> Tensor:
        """Return the class score ``[K]`` of each candidate, 0 to 1, as the detector would report it."""
        with torch.no_grad():
            logits, _ = self._numbers(image, None)
            probabilities = logits.sigmoid() if self._head_kind is RetinaNet else logits.softmax(dim=1)
        return probabilities.gather(1, self.candidates.labels.to(logits.device)[:, None])[:, 0]

    @property
    def layers(self) -> tuple[str, ...]:
        """See :class:`odsg_lightning.saliency.protocol.FeatureDetector`, also for the next two."""
        return layer_names(self.model)

    def features(self, image: Tensor, layer: str) -> CandidateFeatures:
        """Hooks keep the features of one forward pass."""
        check_ready(self.model)
        return CandidateFeatures(self.model, self.candidates, self._detect_one, image, layer)

    def rivals(self, image: Tensor) -> "Detectron2Candidates":
        """The background of Faster R-CNN is no class."""
        known = num_classes(self.model)
        if known < 2:
            raise UserInputError("Expected a detector of several classes, but this one has one: it has no rival.")
        with torch.no_grad():
            logits = self._numbers(image, None)[0][:, :known].cpu()
        other = logits.scatter(1, self.candidates.labels[:, None], -torch.inf).argmax(dim=1)
        return Detectron2Candidates(self, _asked(self.candidates.regions, other, self.candidates.rows))

    def proposals(self, images: Sequence[Tensor]) -> list[Proposals]:
        """Those of the whole detector: see :class:`odsg_lightning.saliency.protocol.ProposingDetector`."""
        return proposals_of(self, images)

    def _engine(self, engine: Engine, precision: Precision, trim: float = 0.0) -> EngineParts:
        parts = super()._engine(engine, precision, trim)
        if isinstance(parts.head, DenseHead):
            return parts._replace(head=ChosenAnchors(self.model, self.candidates.rows))
        return parts

    def _detect_one(self, image: Tensor, head: Head | None = None) -> Detections:
        logits, deltas = self._numbers(image, head)
        labels, against = self.candidates.labels.to(logits.device), self.candidates.against.to(logits.device)
        scores = logits.gather(1, labels[:, None])[:, 0]
        other = logits.gather(1, against.clamp(min=0)[:, None])[:, 0]
        scores = torch.where(against < 0, scores, scores - other)
        model: Any = self.model
        predictor = model if self._head_kind is RetinaNet else model.roi_heads.box_predictor
        boxes = predictor.box2box_transform.apply_deltas(deltas, self.candidates.regions.to(deltas))
        boxes = boxes.reshape(len(labels), boxes.shape[1] // 4, 4)
        own_class = labels if boxes.shape[1] > 1 else torch.zeros_like(labels)
        return Detections(boxes[torch.arange(len(labels), device=labels.device), own_class], scores, labels)

    def _numbers(self, image: Tensor, head: Head | None) -> tuple[Tensor, Tensor]:
        """Return logits ``[K, classes]`` and deltas ``[K, 4]`` or ``[K, 4 * classes]`` of the candidates."""
        model: Any = self.model
        with torch.autocast(image.device.type, enabled=False):
            pixels = model.preprocess_image([{"image": to_input_format(image, self.input_format)}])
            features = model.backbone(pixels.tensor)
            if self._head_kind is not RetinaNet:
                return of_regions(model, features, [self.candidates.regions.to(pixels.tensor)])
            outputs = model.head([features[name] for name in model.head_in_features])
            if isinstance(head, ChosenAnchors):
                return head.outputs()
            rows = self.candidates.rows.to(pixels.tensor.device)
            logits, deltas = (
                torch.cat([by_anchor(level, count) for level in levels])[rows]
                for levels, count in zip(outputs, (model.num_classes, 4), strict=True)
            )
            return logits, deltas


def candidates_of_detections(adapter: Detectron2Model, image: Tensor) -> tuple[Detections, Candidates]:
    """Return what is detected in an image ``[3, H, W]``, and the anchor or region that each detection came from.

    Raises:
        UserInputError: a detector with another kind of head.
    """
    model: Any = adapter.model
    with torch.inference_mode(False), torch.enable_grad(), frozen(model):
        of_kind = _surviving_anchors if head_kind(model) is RetinaNet else _surviving_regions
        return of_kind(adapter, image.detach())


def confident_candidates(adapter: Detectron2Model, image: Tensor, threshold: float) -> Candidates:
    """Return every anchor, or region proposal, and class with a score above a threshold, whatever suppresses it.

    Returns:
        The best first. An anchor or region is there once for each class.

    Raises:
        UserInputError: a detector with another kind of head.
    """
    model: Any = adapter.model
    with torch.no_grad():
        if head_kind(model) is RetinaNet:
            regions = _anchors(adapter, image)
            every = torch.arange(len(regions))
            probe = Detectron2Candidates(adapter, _asked(regions, torch.zeros_like(every), every))
            logits, _ = probe._numbers(image, None)
            scores = logits.sigmoid()
        else:
            with _proposals(model) as found:
                adapter.detect([image])
            regions, every = found[0], torch.full((len(found[0]),), -1)
            probe = Detectron2Candidates(adapter, _asked(regions, torch.zeros_like(every), every))
            logits, _ = probe._numbers(image, None)
            scores = logits.softmax(dim=1)[:, :-1]
        index, label = (scores > threshold).nonzero(as_tuple=True)
        order = scores[index, label].argsort(descending=True, stable=True)
        index, label = index[order].cpu(), label[order].cpu()
        return _asked(regions[index.to(regions.device)], label, every[index])


def candidates_for_objects(adapter: Detectron2Model, image: Tensor, boxes: Tensor, labels: Tensor) -> Candidates:
    """Return the anchor, or the region, that stands for each annotated object, whether it is detected or not.

    It depends on the object and on the size of the image, not on what the detector has learned, so that the maps of two
    checkpoints are maps of the same numbers: the anchor with the highest IoU (the first of several); for Faster R-CNN,
    which can be asked about any region, the object's box itself.

    Args:
        adapter: of the detector.
        image: ``[3, H, W]``.
        boxes: ``[G, 4]`` XYXY, pixels of the image.
        labels: ``[G]`` class indices.

    Raises:
        UserInputError: a detector with another kind of head.
    """
    if head_kind(adapter.model) is not RetinaNet:
        return _asked(boxes, labels, torch.full((len(labels),), -1))
    with torch.no_grad():
        anchors = _anchors(adapter, image)
    if not len(labels):
        return _asked(anchors[:0], labels, torch.zeros(0, dtype=torch.int64))
    best = box_iou(boxes.to(anchors), anchors).argmax(dim=1)
    return _asked(anchors[best], labels, best.cpu())


def _asked(regions: Tensor, labels: Tensor, rows: Tensor) -> Candidates:
    labels = labels.detach().cpu()
    return Candidates(regions.detach(), labels, rows, torch.full_like(labels, -1))


def _anchors(adapter: Detectron2Model, image: Tensor) -> Tensor:
    """Return the anchors ``[R, 4]`` of all levels, in the order of the head's outputs."""
    model: Any = adapter.model
    pixels = model.preprocess_image([{"image": to_input_format(image, adapter.input_format)}])
    features = model.backbone(pixels.tensor)
    anchors = model.anchor_generator([features[name] for name in model.head_in_features])
    return torch.cat([level.tensor for level in anchors])


def _surviving_anchors(adapter: Detectron2Model, image: Tensor) -> tuple[Detections, Candidates]:
    """Follow each detection to its anchor through the graph of Detectron2's decoding."""
    model: Any = adapter.model
    leaves: list[Tensor] = []
    regions: list[Tensor] = []
    decode = model.inference_single_image

    def decode_leaves(anchors: list[Any], scores: list[Tensor], deltas: list[Tensor], *size: Any) -> Any:
        regions.extend(level.tensor for level in anchors)
        leaves.extend(level.detach().clone().requires_grad_() for level in (*scores, *deltas))
        copies = [leaf.clone() for leaf in leaves]  # Detectron2 0.5 takes the sigmoid in place
        return decode(anchors, copies[: len(scores)], copies[len(scores) :], *size)

    model.inference_single_image = decode_leaves
    try:
        found = adapter._detect_one(image)
    finally:
        del model.inference_single_image
    scores = torch.cat([level.detach() for level in leaves[: len(leaves) // 2]])
    rows = torch.zeros(len(found), dtype=torch.int64)
    for index in range(len(found)):
        numbers = (found.scores[index], *found.boxes[index].unbind())
        reached = next((row for number in numbers if (row := _reached(number, leaves)) is not None), None)
        # A score that is saturated, of a box that is clipped on all sides: there is no better one of this class.
        rows[index] = int(scores[:, found.labels[index]].argmax()) if reached is None else reached
    anchors, found = torch.cat(regions), found.detach()
    return found, _asked(anchors[rows.to(anchors.device)], found.labels, rows)


def _reached(number: Tensor, leaves: list[Tensor]) -> int | None:
    """Return the anchor that a number depends on; None if it does not depend on any."""
    gradients = torch.autograd.grad(number, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
    count = len(leaves) // 2
    used = sum(
        (torch.cat(part).abs().sum(dim=1) for part in (gradients[:count], gradients[count:])),
        start=number.new_zeros(1),
    )
    return int(used.argmax()) if float(used.max()) > 0 else None


def _surviving_regions(adapter: Detectron2Model, image: Tensor) -> tuple[Detections, Candidates]:
    """Let Detectron2 carry each detection's region through suppression and postprocessing, as one more field."""
    predictor: Any = adapter.model.get_submodule("roi_heads.box_predictor")
    inference = predictor.inference

    def with_regions(predictions: Any, proposals: Any) -> Any:
        found, kept = inference(predictions, proposals)
        for instances, of_image, rows in zip(found, proposals, kept, strict=True):
            instances.set("odsg_region", of_image.proposal_boxes.tensor[rows])
        return found, kept

    predictor.inference = with_regions
    try:
        (instances,) = adapter._instances([image])
    finally:
        del predictor.inference
    found = Detections(instances.pred_boxes.tensor, instances.scores, instances.pred_classes).detach()
    rows = torch.full((len(found),), -1)
    return found, _asked(instances.odsg_region, found.labels, rows)


@contextmanager
def _proposals(model: Any) -> Iterator[list[Tensor]]:
    """Keep the region proposals of what is detected inside."""
    found: list[Tensor] = []

    def after(module: Any, args: tuple[Any, ...], outputs: tuple[list[Any], Any]) -> None:
        found.extend(of_image.proposal_boxes.tensor for of_image in outputs[0])

    handle = model.proposal_generator.register_forward_hook(after)
    try:
        yield found
    finally:
        handle.remove()
