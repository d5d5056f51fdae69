"""The check: maps of the same anchors or regions, by the detector as trained and as it loses its weights."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.audit.isolation import isolated
from odsg_lightning.audit.loop import detected
from odsg_lightning.detectors.detectron2 import Detectron2Adapter
from odsg_lightning.detectors.resolve import resolve_adapter
from odsg_lightning.errors import UserInputError
from odsg_lightning.explainers.base import Explainer
from odsg_lightning.gate.resampling import mean_intervals
from odsg_lightning.metrics.similarity import SIMILARITIES, map_similarity
from odsg_lightning.names import PARAMETERS
from odsg_lightning.saliency.noise import image_generator
from odsg_lightning.saliency.targets import as_detections
from odsg_lightning.sanity.randomise import cascade
from odsg_lightning.types import AuditSample, Candidates

CHANGED = 0.5
"""A map has changed if its rank correlation with the trained one is below this."""

DISTANCE = "distance alone"
"""Stands for a map that knows the place of the object and nothing else: the closer to its centre, the higher."""

_RESAMPLES, _TAIL = 2000, 0.025


@dataclass(frozen=True)
class Similarity:
    """How alike the maps of one parameter are after a stage.

    Attributes:
        mean: over the objects for which it is defined; None without any.
        interval: 95 % bootstrap interval of the mean, whole images resampled; None with fewer than 5 images.
        n_objects: for how many objects it is defined.
    """

    mean: float | None
    interval: tuple[float, float] | None
    n_objects: int


@dataclass(frozen=True)
class SanityCheck:
    """How alike maps stay as weights are lost.

    Attributes:
        n_images: images with an object.
        n_objects: explained detections.
        stages: what was randomised, in this order: after each, all before it are randomised, too.
        values: for each stage, and for :data:`DISTANCE` in place of a detector, a :class:`Similarity` with the trained
            maps by ``"<measure>/<parameter>"``, measures being those of
            :data:`~odsg_lightning.metrics.similarity.SIMILARITIES`. Empty without objects.
    """

    n_images: int
    n_objects: int
    stages: tuple[str, ...]
    values: dict[str, dict[str, Similarity]]

    def unchanged(self, measure: str) -> list[str]:
        """Return the parameters whose maps stay alike when all is lost: a mean of at least :data:`CHANGED`."""
        last = self.values[self.stages[-1]] if self.stages else {}
        means = {parameter: last[f"{measure}/{parameter}"].mean for parameter in PARAMETERS if last}
        return [parameter for parameter, mean in means.items() if mean is not None and mean >= CHANGED]


def weight_randomisation(
    detector: object,
    samples: Iterable[AuditSample],
    explainer: Explainer,
    *,
    score_threshold: float = 0.5,
    max_objects: int | None = None,
    seed: int = 0,
) -> SanityCheck:
    """Compare an explainer's maps of a trained detector with those of the same detector without what it learned.

    What is explained is fixed by the trained detector: the class logit and the box, not clipped, of the anchor or the
    region of interest that each of its detections came from. A detector with a randomised head detects nothing, but its
    logit at that anchor can still be explained. An explainer whose maps stay alike explains the image, or the geometry
    of the network, rather than what was learned.

    Args:
        detector: what :func:`odsg_lightning.resolve_adapter` understands, with a Detectron2 RetinaNet or Faster R-CNN
            inside. Its weights, mode and gradients are left as they were.
        samples: images; their annotations do not matter.
        explainer: see :class:`odsg_lightning.explainers.base.Explainer`.
        score_threshold: detections that score above this are explained.
        max_objects: the best so many of each image; None for all.
        seed: of the permutations (:func:`odsg_lightning.sanity.randomise.cascade`) and of the explainer's noise, which
            is the same for all stages.

    Raises:
        UserInputError: a detector of another kind, or ``max_objects`` below 1.
        DetectorFailedError: the detector does not run on an image.
    """
    adapter = _detectron2(detector)

    def others() -> Iterator[tuple[str, Detectron2Adapter]]:
        for stage, randomised in cascade(adapter.model, seed):
            yield stage, Detectron2Adapter(randomised, adapter.input_format)

    return _check(adapter, others, samples, explainer, score_threshold, max_objects, seed)


def label_randomisation(
    detector: object,
    randomised: object,
    samples: Iterable[AuditSample],
    explainer: Explainer,
    *,
    score_threshold: float = 0.5,
    max_objects: int | None = None,
    seed: int = 0,
) -> SanityCheck:
    """Compare an explainer's maps of two detectors: one trained on the truth, one on permuted labels and boxes.

    See :func:`weight_randomisation` for the other arguments, and :func:`odsg_lightning.sanity.labels.permuted` for the
    training data. What is explained is fixed by the first detector.

    Args:
        detector: trained on the truth.
        randomised: of the same architecture, trained on permuted annotations.
        samples: images.
        explainer: as there.
        score_threshold: as there.
        max_objects: as there.
        seed: of the noise.

    Returns:
        A check with the single stage ``"labels"``.

    Raises:
        UserInputError: a detector of another kind.
    """
    other = _detectron2(randomised)
    others = [("labels", other)]
    with isolated(other.model):
        return _check(
            _detectron2(detector), lambda: iter(others), samples, explainer, score_threshold, max_objects, seed
        )


def _check(
    adapter: Detectron2Adapter,
    others: Callable[[], Iterator[tuple[str, Detectron2Adapter]]],
    samples: Iterable[AuditSample],
    explainer: Explainer,
    score_threshold: float,
    max_objects: int | None,
    seed: int,
) -> SanityCheck:
    if max_objects is not None and max_objects < 1:
        raise UserInputError(f"Expected argument `max_objects` to be None or at least 1, but got {max_objects}.")
    by_image: list[dict[str, Tensor]] = []  # [objects, 5, measures] by stage
    with isolated(adapter.model):
        for sample in samples:
            image = sample.image.to(next(adapter.model.parameters()).device)
            found, candidates = detected(adapter, image, sample.image_id, AuditConfig(target="logit"))
            assert candidates is not None
            order = found.scores.argsort(descending=True, stable=True)
            chosen = candidates[order[found.scores[order] > score_threshold][:max_objects].cpu()]
            if len(chosen):
                trained, boxes = _maps(adapter, image, chosen, explainer, seed, sample.image_id)
                similarities = {}
                for stage, other in others():
                    maps, _ = _maps(other, image, chosen, explainer, seed, sample.image_id)
                    similarities[stage] = map_similarity(trained, maps, boxes).cpu()
                similarities[DISTANCE] = map_similarity(trained, _closeness(trained, boxes), boxes).cpu()
                by_image.append(similarities)
    stages = [stage for stage in by_image[0] if stage != DISTANCE] if by_image else []
    return SanityCheck(len(by_image), sum(len(one[DISTANCE]) for one in by_image), tuple(stages), _summary(by_image))


def _maps(
    adapter: Detectron2Adapter, image: Tensor, candidates: Candidates, explainer: Explainer, seed: int, image_id: int
) -> tuple[Tensor, Tensor]:
    """``[K, 5, H, W]`` the maps of candidates, and ``[K, 4]`` their boxes, not clipped."""
    outputs = adapter.outputs_of(candidates)
    reference = as_detections(outputs, image)
    every, generator = range(len(candidates)), image_generator(seed, image_id)
    explained = explainer.explain(outputs, image, reference, every, generator=generator, match_iou=None)
    return torch.stack([saliency.maps for saliency in explained]), reference.boxes


def _closeness(maps: Tensor, boxes: Tensor) -> Tensor:
    """Maps that fall with the distance from the centre of the box: by rank, all that do are the same."""
    rows, columns = (torch.arange(length, device=maps.device) + 0.5 for length in maps.shape[2:])
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2).to(maps.device)[:, :, None, None].unbind(1)
    away = ((rows[:, None] - y) ** 2 + (columns - x) ** 2).sqrt()
    return (1 / (1 + away))[:, None].expand_as(maps).to(maps.dtype)


def _summary(by_image: Sequence[dict[str, Tensor]]) -> dict[str, dict[str, Similarity]]:
    """Mean and interval over images, by stage and ``"<measure>/<parameter>"``."""
    if not by_image:
        return {}
    names = [(stage, f"{m}/{parameter}") for stage in by_image[0] for parameter in PARAMETERS for m in SIMILARITIES]
    tables = [torch.stack(list(one.values()), dim=1).flatten(1).numpy() for one in by_image]  # [objects, columns]
    values = np.concatenate(tables).astype(np.float64)
    intervals = mean_intervals(values, np.repeat(np.arange(len(tables)), list(map(len, tables))), _RESAMPLES, 0, _TAIL)
    summary: dict[str, dict[str, Similarity]] = {stage: {} for stage in by_image[0]}
    for (stage, name), column, interval in zip(names, values.T, intervals, strict=True):
        defined = column[np.isfinite(column)]
        summary[stage][name] = Similarity(float(defined.mean()) if len(defined) else None, interval, len(defined))
    return summary


def _detectron2(detector: object) -> Detectron2Adapter:
    adapter = resolve_adapter(detector)
    if not isinstance(adapter, Detectron2Adapter):
        raise UserInputError(
            "Expected a detector whose weights are known stage by stage, Detectron2's RetinaNet or Faster R-CNN, but "
            f"got {type(adapter).__name__}."
        )
    return adapter
