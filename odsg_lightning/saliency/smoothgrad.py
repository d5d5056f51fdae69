"""ODSmoothGrad: one saliency map for each of the five numbers of each detected object.

Gwon & Howell, "ODSmoothGrad: Generating Saliency Maps for Object Detectors", CVPR Workshops 2023, the method that
differentiates the detector's output tensors.
"""

from collections.abc import Callable, Sequence
from itertools import islice

import torch
from torch import Tensor

from odsg_lightning.names import PARAMETERS
from odsg_lightning.saliency.early_stop import FEWEST_MATCHED, has_settled
from odsg_lightning.saliency.gradients import gradient_looks
from odsg_lightning.saliency.masks import defined_maps
from odsg_lightning.saliency.matching import match_one_to_one
from odsg_lightning.saliency.noise import noisy_images
from odsg_lightning.saliency.options import check_tolerance
from odsg_lightning.saliency.protocol import Detector, Looks, Track
from odsg_lightning.types import Detections, LocalMaps, ObjectSaliency


def smoothgrad(
    detector: Detector,
    image: Tensor,
    reference: Detections,
    indices: Sequence[int],
    *,
    generator: torch.Generator,
    n_samples: int = 20,
    sigma: float = 0.05,
    match_iou: float | None = 0.7,
    tolerance: float | None = None,
    look: Looks = gradient_looks,
    on_sample: Callable[[], None] = lambda: None,
) -> list[ObjectSaliency]:
    r"""Explain detections of one image.

    In each noise sample the detections are matched one to one to the reference (same class, IoU at least
    ``match_iou``). The map of parameter :math:`p` is the mean over the *matched* samples
    :math:`\frac{1}{|M|} \sum_{i \in M} \max_c |\partial p_i / \partial x_c|`. ``n_samples=1, sigma=0`` is the plain
    gradient.

    A map is undefined, and NaN throughout, if the object was detected again in no sample, or if the map is zero
    everywhere (a coordinate clipped at the image border, a saturated score) or not finite.

    With a ``tolerance``, ``n_samples`` is an upper bound: an object is finished with the matched sample, from the third
    on, that leaves all five running means with a Pearson correlation of at least ``1 - tolerance`` to those before it
    (:func:`~odsg_lightning.saliency.early_stop.has_settled`), and is not differentiated in later samples. When all are
    finished, the detector is not run again. What the tolerance bounds is the last *step*, not the distance to the limit
    of many samples: a mean of :math:`n` independent samples is about :math:`n - 1` times as far from its limit, in
    1 - correlation, as from the mean of :math:`n - 1`. The noise of each sample is the same whoever has finished.

    Args:
        detector: see :class:`~odsg_lightning.saliency.protocol.Detector`.
        image: ``[3, H, W]`` RGB, float, 0 to 255.
        reference: detections of the clean image.
        indices: which of them to explain.
        generator: source of the noise; the same state gives the same bits on the same machine.
        n_samples: number of noise samples, at least 1; with a ``tolerance``, the most.
        sigma: standard deviation of the noise relative to the pixel range, not negative.
        match_iou: least IoU of a detection in a noise sample with the reference; None for a detector that returns the
            same objects in the same order whatever it is shown, so that nothing has to be matched.
        tolerance: None for all ``n_samples``, or the largest 1 - correlation at which an object is finished.
        look: what is averaged: the plain gradient, or another explainer of one image.
        on_sample: called ``n_samples`` times, after each noise sample or instead of one that is not needed any more;
            never without indices.

    Returns:
        One record per index, in order.

    Raises:
        ValueError: ``n_samples`` or ``sigma`` out of range.
        UserInputError: ``tolerance`` out of range; an engine that the detector does not have.

    Example:
        >>> class Brightest:  # one object, whose score is the image's mean and whose box never moves
        ...     def detect(self, images):
        ...         boxes = torch.tensor([[2.0, 2.0, 6.0, 6.0]])
        ...         scores = [image.mean()[None] / 255 for image in images]
        ...         return [Detections(boxes + 0 * score, score, torch.zeros(1).long()) for score in scores]
        >>> image, detector = torch.full((3, 8, 8), 100.0), Brightest()
        >>> [saliency] = smoothgrad(detector, image, detector.detect([image])[0], [0], generator=torch.Generator())
        >>> saliency.matched_samples, saliency.maps.shape
        (20, torch.Size([5, 8, 8]))
        >>> bool(torch.allclose(saliency.maps[4], torch.full((8, 8), 1 / (255 * 3 * 8 * 8))))  # d score / d pixel
        True
        >>> bool(saliency.maps[0].isnan().all())  # x_min does not depend on the image: undefined
        True
    """
    if n_samples < 1:
        raise ValueError(f"Expected argument `n_samples` to be at least 1, but got {n_samples}.")
    if not 0 <= sigma < float("inf"):
        raise ValueError(f"Expected argument `sigma` to be 0 or more (relative to the pixel range), but got {sigma}.")
    check_tolerance(tolerance)
    if not indices:
        return []
    means = [_RunningMean(image, tolerance) for _ in indices]
    noisy = noisy_images(image, n_samples, sigma, generator)
    # Where objects may finish early, not more samples at a time than the first of them needs.
    at_a_time = n_samples if tolerance is None else FEWEST_MATCHED
    done = 0
    while done < n_samples and not all(mean.finished for mean in means):
        for seen in look(detector, islice(noisy, at_a_time)):
            samples = len(seen.detections)
            matches = [_matches(reference, found, match_iou)[list(indices)].tolist() for found in seen.detections]
            tracks = [(mean, track) for mean, track in zip(means, zip(*matches, strict=True), strict=True)]
            tracks = [(mean, track) for mean, track in tracks if not mean.finished]
            detected = [(mean, track) for mean, track in tracks if max(track) >= 0]
            for mean, track in tracks:
                if max(track) < 0:
                    mean.samples += samples
            maps = seen.maps(track for _, track in detected)
            for (mean, track), of_object in zip(detected, maps, strict=True):
                mean.add(of_object, track)
            del seen, maps  # its graph, before the next samples build another: half the memory
            for _ in range(samples):
                on_sample()
            done += samples
    for _ in range(n_samples - done):
        on_sample()
    for _ in noisy:  # what is drawn later does not depend on who has finished
        pass
    return [
        ObjectSaliency(mean.maps(), mean.matched, mean.samples, stopped=mean.finished, dropped=mean.dropped)
        for mean in means
    ]


class _RunningMean:
    """The mean of an object's maps over the samples in which it was detected."""

    def __init__(self, image: Tensor, tolerance: float | None) -> None:
        self._sum = torch.zeros(len(PARAMETERS), *image.shape[1:], dtype=image.dtype, device=image.device)
        self._tolerance = tolerance
        self.matched, self.samples, self.finished, self.dropped = 0, 0, False, 0.0

    def add(self, maps: LocalMaps, track: Track) -> None:
        """Add some more samples, of which the last are not used if the object is finished before them."""
        self.dropped = max(self.dropped, maps.dropped)
        values = maps.values.to(self._sum.device)
        height, width = values.shape[2:]
        within = self._sum[:, maps.top : maps.top + height, maps.left : maps.left + width]
        if self._tolerance is None:
            within += values.sum(dim=0)
            self.matched += len(values)
            self.samples += len(track)
            return
        found = iter(values)
        for index in track:
            self.samples += 1
            if index < 0:
                continue
            self.matched += 1
            before = None if self.matched < FEWEST_MATCHED else self._sum.clone()
            within += next(found)
            if before is not None and has_settled(before, self._sum, self._tolerance):
                self.finished = True
                return

    def maps(self) -> Tensor:
        """Return the mean ``[5, H, W]``, NaN where a map is zero everywhere or not finite."""
        maps = self._sum / max(1, self.matched)
        return maps.where(defined_maps(maps)[:, None, None], torch.nan)


def _matches(reference: Detections, noisy: Detections, match_iou: float | None) -> Tensor:
    """Return the index ``[K]`` of each reference detection in a noise sample, -1 for none."""
    if match_iou is None:
        return torch.arange(len(reference))
    return match_one_to_one(reference.boxes, reference.labels, noisy.boxes, noisy.labels, match_iou)[0]
