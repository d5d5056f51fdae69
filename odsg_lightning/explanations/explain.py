"""The maps of any picture: detections chosen by score, class or a point, or objects that were not detected."""

from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from odsg_lightning.audit.config import Target
from odsg_lightning.audit.isolation import isolated
from odsg_lightning.detectors.resolve import resolve_adapter
from odsg_lightning.errors import UserInputError
from odsg_lightning.explainers.base import Explainer
from odsg_lightning.explainers.smoothgrad import SmoothGrad
from odsg_lightning.explanations.explanation import Explanation
from odsg_lightning.explanations.inputs import ClassNames, as_pixels, check_point
from odsg_lightning.saliency.noise import image_generator
from odsg_lightning.saliency.protocol import Detector
from odsg_lightning.saliency.targets import as_detections, candidate_detector
from odsg_lightning.types import Candidates, Detections


def explain(
    detector: object,
    image: Any,
    *,
    target: Target | None = None,
    score_threshold: float = 0.5,
    labels: Sequence[str | int] | None = None,
    point: tuple[float, float] | None = None,
    max_objects: int | None = None,
    classes: Sequence[str | int] | None = None,
    against: str | int | None = None,
    suppressed: bool = False,
    boxes: Tensor | None = None,
    category_names: Sequence[str] | None = None,
    explainer: Explainer | None = None,
    match_iou: float = 0.7,
    seed: int = 0,
) -> list[Explanation]:
    """Explain what a detector says of one picture.

    By default that is what it returned (the second method of Gwon & Howell, 2023). With ``target="logit"`` it is what
    the head said of the anchor or region that a detection came from, before decoding: the class logit, and a box that
    no border clips (their first method). With ``target="ground_truth"`` it is the same of the anchor or region that
    fits a given box, whether it is detected or not.

    Args:
        detector: what :func:`odsg_lightning.resolve_adapter` understands: a LightningModule, a Detectron2 model, or an
            object with ``detect``. Its mode, gradients and random streams are left as they were.
        image: RGB at the size that the network is to see: a tensor ``[3, H, W]`` or an array ``[H, W, 3]`` with values
            0 to 255, or a Pillow image.
        target: what is explained; None for ``"logit"`` if ``classes``, ``against`` or ``suppressed`` ask for it,
            ``"ground_truth"`` if ``boxes`` are given, and ``"output"`` otherwise.
        score_threshold: detections must score above this, 0 to 1.
        labels: only detections of these classes, by name or index; of ``"ground_truth"``, the class of each box.
        point: ``(x, y)`` in pixels: only detections whose box holds it.
        max_objects: at most so many, the best first; None for all.
        classes: ask the same anchors or regions for these classes instead of their own, each for every detection ("why
            not a cat?").
        against: subtract this class's logit ("why a dog and not a cat?").
        suppressed: every anchor or region above the threshold, not only those that survived suppression: many.
        boxes: ``[G, 4]`` XYXY in pixels, of ``target="ground_truth"``.
        category_names: name of each class in the order of its index; None for those that the detector knows, if any.
        explainer: None for SmoothGrad of 20 samples.
        match_iou: least IoU of a detection in a noisy copy with the one in the picture.
        seed: of the noise.

    Returns:
        One record per detection and asked class; empty if nothing is detected.

    Raises:
        UserInputError: a picture, point, class or target that does not fit, or a detector that cannot be asked.

    Example:
        >>> class Brightest:  # finds one object, the brighter the surer
        ...     def detect(self, images):
        ...         boxes = torch.tensor([[2.0, 2.0, 6.0, 6.0]])
        ...         scores = [image.mean()[None] / 255 for image in images]
        ...         return [Detections(boxes + 0 * score, score, torch.zeros(1).long()) for score in scores]
        >>> [bright] = explain(Brightest(), torch.full((3, 8, 8), 200.0), category_names=["lamp"])
        >>> bright.title, bright.maps.shape
        ('lamp: score 0.784, 20/20 samples', torch.Size([5, 8, 8]))
        >>> explain(Brightest(), torch.zeros(3, 8, 8))  # dark: nothing is detected
        []
    """
    adapter = resolve_adapter(detector)
    pixels = as_pixels(image).to(_device(detector))
    names = ClassNames(category_names if category_names is not None else getattr(detector, "category_names", None))
    target = _target(target, classes is not None or against is not None or suppressed, boxes is not None)
    check_point(point, pixels)
    explainer = explainer or SmoothGrad()
    asked = None if classes is None else [names.index(one) for one in classes]
    other = None if against is None else names.index(against)
    wanted = None if labels is None else [names.index(one) for one in labels]
    module = detector if isinstance(detector, nn.Module) else nn.Module()
    with isolated(module):
        if target == "output":
            with torch.no_grad():
                (found,) = adapter.detect([pixels])
            found = found.detach()
            chosen = _chosen(found, score_threshold, wanted, point, max_objects)
            explained, reference, candidates = adapter, found, None
        else:
            candidates = _candidates(adapter, pixels, target, boxes, wanted, score_threshold, suppressed)
            scored = as_detections(candidate_detector(adapter).outputs_of(candidates), pixels)
            threshold = -1.0 if target == "ground_truth" else score_threshold
            chosen = _chosen(scored, threshold, None if target == "ground_truth" else wanted, point, max_objects)
            candidates = _ask(candidates[chosen], asked, other)
            explained = candidate_detector(adapter).outputs_of(candidates)
            reference = as_detections(explained, pixels)
            chosen = list(range(len(candidates)))
        maps = explainer.explain(
            explained,
            pixels,
            reference,
            chosen,
            generator=image_generator(seed, 0),
            match_iou=match_iou if target == "output" else None,
        )
    return [
        Explanation(
            image=pixels.cpu(),
            box=reference.boxes[index].cpu(),
            score=float(reference.scores[index]),
            label=int(reference.labels[index]),
            name=names.name(int(reference.labels[index])),
            maps=saliency.maps.cpu(),
            target=target,
            matched_samples=saliency.matched_samples,
            n_samples=saliency.n_samples,
            region=None if candidates is None else candidates.regions[index].cpu(),
            against=None if other is None else names.name(other),
            dropped=saliency.dropped,
        )
        for index, saliency in zip(chosen, maps, strict=True)
    ]


def _device(detector: object) -> torch.device:
    parameter = next(detector.parameters(), None) if isinstance(detector, nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device


def _target(target: str | None, needs_logit: bool, has_boxes: bool) -> Target:
    if target is None:
        return "ground_truth" if has_boxes else "logit" if needs_logit else "output"
    if target not in get_args(Target):
        raise UserInputError(f"Expected argument `target` to be one of {get_args(Target)}, but got {target!r}.")
    if has_boxes != (target == "ground_truth"):
        raise UserInputError("Expected `boxes` together with target='ground_truth', and only then.")
    if needs_logit and target == "output":
        raise UserInputError(
            "Expected `classes`, `against` and `suppressed` with target='logit': what was returned has one class."
        )
    return target  # type: ignore[return-value]


def _chosen(
    found: Detections,
    threshold: float,
    labels: Sequence[int] | None,
    point: tuple[float, float] | None,
    most: int | None,
) -> list[int]:
    """Return which detections are explained, the best first."""
    keep = found.scores > threshold
    if labels is not None:
        keep &= torch.isin(found.labels, torch.tensor(labels, device=found.labels.device))
    if point is not None:
        x, y = point
        x_min, y_min, x_max, y_max = found.boxes.unbind(1)
        keep &= (x_min <= x) & (x < x_max) & (y_min <= y) & (y < y_max)
    order = found.scores.argsort(descending=True, stable=True)
    chosen: list[int] = order[keep[order]].tolist()
    return chosen[:most]


def _candidates(
    detector: Detector,
    pixels: Tensor,
    target: Target,
    boxes: Tensor | None,
    labels: Sequence[int] | None,
    threshold: float,
    suppressed: bool,
) -> Candidates:
    adapter = candidate_detector(detector)
    if target == "logit":
        if suppressed:
            return adapter.confident_candidates(pixels, threshold)
        return adapter.candidates_of_detections(pixels)[1]
    assert boxes is not None
    if labels is None or len(labels) != len(boxes):
        raise UserInputError(
            f"Expected `labels` to name the class of each of {len(boxes)} boxes, but got "
            f"{'none' if labels is None else len(labels)}."
        )
    return adapter.candidates_for_objects(pixels, boxes.to(pixels), torch.tensor(labels, dtype=torch.int64))


def _ask(candidates: Candidates, classes: list[int] | None, against: int | None) -> Candidates:
    """Ask each candidate for each class; without any, for its own."""
    if classes is not None:
        every = [index for index in range(len(candidates)) for _ in classes]
        asked = torch.tensor(classes * len(candidates), dtype=torch.int64)
        candidates = candidates[every]
        candidates = Candidates(candidates.regions, asked, candidates.rows, candidates.against)
    if against is None:
        return candidates
    other = torch.full_like(candidates.against, against)
    return Candidates(candidates.regions, candidates.labels, candidates.rows, other)
