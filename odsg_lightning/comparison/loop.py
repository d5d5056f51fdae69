"""One image: the same objects explained by every method, and each map measured."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.loop import detected
from odsg_lightning.audit.pairing import pair_detections
from odsg_lightning.comparison.measuring import Hiding, map_values, plain
from odsg_lightning.comparison.methods import Method
from odsg_lightning.comparison.pictures import object_pictures
from odsg_lightning.comparison.result import ComparedObject, ImageResult
from odsg_lightning.errors import UserInputError
from odsg_lightning.names import PARAMETERS
from odsg_lightning.saliency.masks import defined_maps
from odsg_lightning.saliency.noise import image_generator
from odsg_lightning.saliency.protocol import CandidateDetector, Detector
from odsg_lightning.saliency.targets import as_detections
from odsg_lightning.types import AuditSample, Detections, ObjectSaliency

_SCORE = PARAMETERS.index("score")


@dataclass(frozen=True)
class CompareConfig:
    """What the values depend on besides the explainers.

    Attributes:
        steps: of deletion and insertion; None to leave both out.
        score_threshold: a detection must score above this to be paired with an object.
        pair_iou: least IoU of a detection with its object.
        match_iou: least IoU of a detection in a noise sample with the one that is explained.
        seed: of noise and masks.
    """

    steps: int | None = 50
    score_threshold: float = 0.5
    pair_iou: float = 0.5
    match_iou: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            UserInputError: names the argument, its range and the value that came.
        """
        if self.steps is not None and (not isinstance(self.steps, int) or self.steps < 1):
            raise UserInputError(f"Expected argument `steps` to be an integer of at least 1, but got {self.steps!r}.")
        self.pairing("output")  # checks the others

    def pairing(self, target: Any) -> AuditConfig:
        """Return the settings of an audit that pairs detections in the same way."""
        names = ("score_threshold", "pair_iou", "match_iou", "seed")
        return AuditConfig(target=target, **{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class _Subjects:
    """The objects of an image as a method sees them: some of what a detector returns."""

    detector: Detector
    numbers: Detections
    rows: list[int]
    match_iou: float | None


def compare_image(
    detector: Detector,
    sample: AuditSample,
    methods: Sequence[Method],
    config: CompareConfig,
    *,
    device: torch.device | str = "cpu",
    turn: int = 0,
    with_pictures: bool = False,
    on_method: Callable[[], None] = lambda: None,
) -> ImageResult:
    """Explain the detected objects of an image by every method, and measure the maps.

    Each method but those of detections explains logit and unclipped box of the very anchor or region that an object's
    detection came from. Each draws the same random numbers. The detector must be in eval mode.

    Args:
        detector: see :class:`odsg_lightning.saliency.protocol.Detector`.
        sample: the image.
        methods: what is compared.
        config: see :class:`CompareConfig`.
        device: where the image is put.
        turn: which method goes first, so that over several images none always does: what the first one finds cold, or
            the last one warm, evens out.
        with_pictures: whether to draw the largest object.
        on_method: called after each method.

    Returns:
        The image; a method that cannot explain this detector is in ``left_out``, with the reason.

    Raises:
        DetectorFailedError: the detector does not run.
    """
    image = sample.image.to(device, copy=True)
    fixed = isinstance(detector, CandidateDetector)
    pairing = config.pairing("logit" if fixed else "output")
    reference, candidates = detected(detector, image, sample.image_id, pairing)
    pairs, ious = pair_detections(sample, reference, pairing)
    objects = (pairs >= 0).nonzero().flatten().tolist()
    missed = tuple(key for key, pair in zip(sample.annotation_ids, pairs.tolist(), strict=True) if pair < 0)
    if not objects:
        for _ in methods:
            on_method()
        return ImageResult(sample.image_id, (), missed)
    chosen = reference[pairs[objects]]
    returned = _Subjects(detector, reference, pairs[objects].tolist(), config.match_iou)
    behind = None
    if isinstance(detector, CandidateDetector) and candidates is not None:
        outputs = detector.outputs_of(candidates[pairs[objects]])
        behind = _Subjects(outputs, as_detections(outputs, image), list(range(len(objects))), None)

    seconds, left_out, maps = {}, {}, {}
    start = turn % len(methods)
    for method in (*methods[start:], *methods[:start]):
        try:
            found, seconds[method.name] = _explained(
                method, returned if method.of_detections else behind, image, sample.image_id, config
            )
            maps[method.name] = torch.stack([of_object.maps for of_object in found])
        except UserInputError as error:  # it says what the detector would have to offer
            left_out[method.name] = str(error)
        on_method()
    hiding = None if config.steps is None else Hiding(detector, image, chosen, config.steps)
    kept = [method for method in methods if method.name in maps]
    values = {method.name: _values(maps[method.name], sample, objects, hiding) for method in kept}
    undefined = {method.name: _undefined(method, maps[method.name]) for method in kept}
    rows = tuple(
        ComparedObject(
            sample.image_id,
            sample.annotation_ids[index],
            sample.category_names[index] if sample.category_names else f"class {int(sample.labels[index])}",
            plain(chosen.scores[row]) or 0.0,
            plain(ious[index]) or 0.0,
            {name: of_method[row] for name, of_method in values.items()},
            {name: of_method[row] for name, of_method in undefined.items()},
        )
        for row, index in enumerate(objects)
    )
    pictures = (
        object_pictures(sample, objects, chosen, {one.name: maps[one.name] for one in kept}) if with_pictures else None
    )
    return ImageResult(
        sample.image_id, rows, missed, left_out, {method.name: seconds[method.name] for method in kept}, pictures
    )


def clock_of(device: torch.device | str) -> str:
    """Return how seconds are taken: ``"processor"``, which others' work does not change, or ``"wall"`` of a GPU."""
    return "wall" if torch.device(device).type == "cuda" else "processor"


def _explained(
    method: Method, subjects: _Subjects | None, image: Tensor, image_id: int, config: CompareConfig
) -> tuple[list[ObjectSaliency], float]:
    if subjects is None:
        raise UserInputError(
            "Expected a detector whose numbers before decoding can be asked for, to explain the logit and box of an "
            "anchor or region, but this one returns detections alone."
        )
    began = _now(image.device)
    found = method.explainer.explain(
        subjects.detector,
        image,
        subjects.numbers,
        subjects.rows,
        generator=image_generator(config.seed, image_id),
        match_iou=subjects.match_iou,
    )
    return found, _now(image.device) - began


def _now(device: torch.device) -> float:
    if clock_of(device) == "processor":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def _values(
    maps: Tensor, sample: AuditSample, objects: list[int], hiding: Hiding | None
) -> list[dict[str, float | None]]:
    values = map_values(maps, sample, objects)
    if hiding is None:
        return values
    return [one | hidden for one, hidden in zip(values, hiding.values(maps[:, _SCORE]), strict=True)]


def _undefined(method: Method, maps: Tensor) -> list[int]:
    given = [PARAMETERS.index(name) for name in method.explainer.parameters]
    counts: list[int] = (~defined_maps(maps[:, given])).sum(dim=1).tolist()
    return counts
