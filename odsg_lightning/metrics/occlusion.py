"""Sufficiency and necessity: does a detection stand on the object alone, and does it fall without it?

The two questions are those of DeYoung et al., *ERASER* (2020), asked of the class score of a detector.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from odsg_lightning.metrics.per_object import PerObjectMetric
from odsg_lightning.names import OCCLUSION_NAMES
from odsg_lightning.occlusion.evidence import DetectedAgain, OcclusionEvidence


def sufficiency(alone: Tensor, whole: Tensor) -> Tensor:
    """Return how much of each object's score is left when everything else is hidden.

    Args:
        alone: ``[N, R]`` score of each object under each replacement of its surroundings, 0 where it is not detected,
            NaN where that cannot be judged.
        whole: ``[N]`` its score in the whole image, above 0.

    Returns:
        ``[N]`` the least ``alone / whole`` of all replacements, at most 1: the object must suffice whatever stands in
        the place of the rest. NaN without a replacement that can be judged.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> sufficiency(torch.tensor([[0.9, 0.2], [0.45, torch.nan]]), torch.tensor([0.8, 0.9]))
        tensor([0.2500, 0.5000])
    """
    _check("alone", alone, whole)
    return _least((alone / whole[:, None]).clamp(max=1))


def necessity(hidden: Tensor, whole: Tensor) -> Tensor:
    """Return how much of each object's score is gone when the object is hidden.

    Args:
        hidden: ``[N, R]`` score of the best detection of the object's class at its place, under each replacement of the
            object; 0 where there is none, NaN where that cannot be judged.
        whole: ``[N]`` the object's score in the whole image, above 0.

    Returns:
        ``[N]`` the least ``1 - hidden / whole`` of all replacements, at least 0; NaN without one that can be judged.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> necessity(torch.tensor([[0.9], [0.0]]), torch.tensor([0.9, 0.8]))
        tensor([0., 1.])
    """
    _check("hidden", hidden, whole)
    return _least((1 - hidden / whole[:, None]).clamp(min=0))


def occlusion_values(evidence: Sequence[OcclusionEvidence], whole: Tensor) -> Tensor:
    """Return sufficiency and necessity of objects.

    Args:
        evidence: of each object.
        whole: ``[N]`` score of each in the whole image.

    Returns:
        ``[N, 2]`` float32 in the order of ``names.OCCLUSION_NAMES``, NaN where it cannot be judged.
    """
    if not evidence:
        return torch.zeros(0, len(OCCLUSION_NAMES))
    alone, hidden = (
        torch.tensor([_scores(getattr(of_object, name).values()) for of_object in evidence]) for name in OCCLUSION_NAMES
    )
    whole = whole.detach().float().cpu()
    return torch.stack([sufficiency(alone, whole), necessity(hidden, whole)], dim=1)


def _scores(again: Iterable[DetectedAgain | None]) -> list[float]:
    return [float("nan") if one is None else one.score for one in again]


def _least(values: Tensor) -> Tensor:
    """Return ``[N]`` the least of ``[N, R]``, NaN left out; NaN where there is nothing else."""
    undefined = values.isnan()
    return values.where(~undefined, torch.inf).amin(dim=1).where(~undefined.all(dim=1), torch.nan)


def _check(name: str, scores: Tensor, whole: Tensor) -> None:
    if scores.ndim != 2 or scores.shape[1] < 1 or whole.shape != scores.shape[:1]:
        raise ValueError(
            f"Expected arguments `{name}` [N, R] with R >= 1 and `whole` [N], but got {tuple(scores.shape)} and "
            f"{tuple(whole.shape)}."
        )


class Occlusion(PerObjectMetric):
    """Mean :func:`sufficiency` and :func:`necessity` over objects, with the values of each object kept.

    ``per_object()`` returns them, ``[N, 2]`` in the order of ``names.OCCLUSION_NAMES``. ``compute()`` returns a dict of
    the two means, as scalars. An undefined value is left out; a mean of nothing is NaN.

    Args:
        **kwargs: see ``torchmetrics.Metric``.

    Example:
        >>> metric = Occlusion()
        >>> metric.update(torch.tensor([[0.9], [0.0]]), torch.tensor([[0.0], [0.8]]), torch.tensor([0.9, 0.8]))
        >>> metric.compute()
        {'sufficiency': tensor(0.5000), 'necessity': tensor(0.5000)}
    """

    higher_is_better = True

    def __init__(self, **kwargs: Any) -> None:
        """See the class for the arguments."""
        super().__init__((len(OCCLUSION_NAMES),), **kwargs)

    def update(
        self,
        alone: Tensor | None = None,
        hidden: Tensor | None = None,
        whole: Tensor | None = None,
        *,
        values: Tensor | None = None,
    ) -> None:
        """Add objects: their scores, as :func:`sufficiency` and :func:`necessity` take them, or their two values.

        Raises:
            ValueError: see there; or neither, or values that are not ``[N, 2]``.
        """
        if values is None:
            if alone is None or hidden is None or whole is None:
                raise ValueError("Expected arguments `alone`, `hidden` and `whole`, or `values`, but got neither.")
            values = torch.stack([sufficiency(alone, whole), necessity(hidden, whole)], dim=1)
        if values.ndim != 2 or values.shape[1] != len(OCCLUSION_NAMES):
            raise ValueError(
                f"Expected argument `values` to be [N, {len(OCCLUSION_NAMES)}], but got {tuple(values.shape)}."
            )
        self._keep(values)

    def compute(self) -> dict[str, Tensor]:
        """Return the mean of both, as scalars."""
        return dict(zip(OCCLUSION_NAMES, self.per_object().nanmean(dim=0), strict=True))
