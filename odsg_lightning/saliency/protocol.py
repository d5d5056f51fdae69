"""What the mathematics needs of a detector, and what a detector may offer beyond it.

:mod:`odsg_lightning.detectors` implements these protocols; :mod:`odsg_lightning.saliency.gradients` is the one place
that asks which of them a detector has.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from odsg_lightning.saliency.options import Engine, Precision
from odsg_lightning.types import Candidates, Detections, Feature, LocalGradient, LocalMaps, Proposals


@runtime_checkable
class Detector(Protocol):
    """Anything that detects objects differentiably."""

    def detect(self, images: Sequence[Tensor]) -> list[Detections]:
        """Detect objects in each image.

        Args:
            images: RGB, float, 0 to 255, each ``[3, H, W]``; sizes may differ.

        Returns:
            One record per image. Boxes and scores are differentiable with respect to the images when these
            require a gradient.
        """
        ...


@runtime_checkable
class ConfiguredDetector(Detector, Protocol):
    """A detector that can be explained in more than one way.

    Example:
        >>> class Whole:
        ...     explained_with = {"through_refinement": True}  # what differs from the default, by its name
        ...
        ...     def detect(self, images): ...
        >>> isinstance(Whole(), ConfiguredDetector)
        True
    """

    explained_with: Mapping[str, str | float | bool]
    """Settings of its own that its gradients depend on, other than the defaults: records say them."""


class Linearization(Protocol):
    """A detector at one image: what it returned there and how each number depends on the pixels."""

    detections: Detections
    """Without a graph."""

    def gradients(self, indices: Iterable[int]) -> Iterator[LocalGradient]:
        """Yield, for each detection index in order, d (x_min, y_min, x_max, y_max, score) / d image."""
        ...


Track = Sequence[int]
"""An object in several images: the index of its detection in each of them, negative where it was not detected."""


class JointLinearization(Protocol):
    """A detector at several images of one size, which may have gone through it together."""

    @property
    def detections(self) -> Sequence[Detections]:
        """Of each image, without a graph."""
        ...

    def gradients(self, tracks: Iterable[Track]) -> Iterator[LocalGradient]:
        """Yield, for each object in order, its gradients ``[n, 5, 3, h, w]`` in the n images in which it was detected.

        Each object was detected in one of them at least.
        """
        ...


@dataclass(frozen=True)
class EngineChoice:
    """Which engine computes a detector's gradients.

    Attributes:
        name: ``"windowed"``, ``"cut"``, ``"batched"`` or ``"autograd"``.
        precision: ``"full"`` or ``"bf16"``, of the linear backward pass.
        reason: why this one runs, in a few plain words.
        trim: share of a cotangent's mass that each block of the network may leave out; 0 where nothing is.
    """

    name: str
    precision: str
    reason: str
    trim: float = 0.0

    @property
    def approximate(self) -> bool:
        """Whether its gradients differ from those of plain autograd by more than rounding."""
        return self.precision != "full" or self.trim > 0


@runtime_checkable
class LinearizingDetector(Detector, Protocol):
    """A detector with gradients of its own, faster than one backward pass per output.

    It is given ``trim`` only where that is not 0, here and below, so that it may do without.
    """

    def linearize(
        self, image: Tensor, *, engine: Engine = "auto", precision: Precision = "full", trim: float = 0.0
    ) -> Linearization:
        """Run the detector on one image ``[3, H, W]`` and keep what the gradients need."""
        ...


@runtime_checkable
class EngineChoosingDetector(LinearizingDetector, Protocol):
    """A detector that says beforehand which engine it will use."""

    def choose_engine(self, engine: Engine = "auto", precision: Precision = "full", trim: float = 0.0) -> EngineChoice:
        """Return which engine :meth:`linearize` uses for the detector as it is now."""
        ...


@runtime_checkable
class BatchingDetector(LinearizingDetector, Protocol):
    """A detector that can run several noise samples of an image at once, where that is faster."""

    def linearize_together(
        self, images: Iterable[Tensor], *, engine: Engine = "auto", precision: Precision = "full", trim: float = 0.0
    ) -> Iterator[JointLinearization]:
        """Run the detector on images of one size, as many at a time as it chooses, in order.

        What it yields it must not keep.
        """
        ...


class Look(Protocol):
    """What an explainer sees of one image or of several of one size: what is detected there, and maps of it."""

    @property
    def detections(self) -> Sequence[Detections]:
        """Of each image, without a graph."""
        ...

    def maps(self, tracks: Iterable[Track]) -> Iterator[LocalMaps]:
        """Yield, for each object in order, its maps ``[n, 5, h, w]`` in the n images in which it was detected."""
        ...


Looks = Callable[[Detector, Iterable[Tensor]], Iterator[Look]]
"""An explainer that looks at images of one size, as many at a time as it chooses, in order.

A map does not depend on the other images. What it yields it must not keep."""


@runtime_checkable
class CandidateOutputs(Detector, Protocol):
    """What a detector's head says of fixed candidates of an image, one "detection" for each, in their order.

    The score is a class logit, or the difference of two, unbounded; the box is not clipped. Images must have the size
    of that one.
    """

    def probabilities(self, image: Tensor) -> Tensor:
        """Return the class score ``[K]`` of each candidate, 0 to 1, as the detector would report it."""
        ...


@runtime_checkable
class CandidateDetector(Detector, Protocol):
    """A detector whose numbers before decoding can be explained: those of an anchor or a region of interest."""

    def candidates_of_detections(self, image: Tensor) -> tuple[Detections, Candidates]:
        """Return what is detected in an image ``[3, H, W]``, and the candidate that each detection came from."""
        ...

    def candidates_for_objects(self, image: Tensor, boxes: Tensor, labels: Tensor) -> Candidates:
        """Return the candidate that stands for each object, whether it is detected or not.

        It depends on the object and on the size of the image, not on what the detector has learned.

        Args:
            image: ``[3, H, W]``.
            boxes: ``[G, 4]`` XYXY, pixels of the image.
            labels: ``[G]`` class indices.
        """
        ...

    def confident_candidates(self, image: Tensor, threshold: float) -> Candidates:
        """Return every candidate and class with a score above a threshold, suppressed ones too, the best first."""
        ...

    def outputs_of(self, candidates: Candidates) -> CandidateOutputs:
        """Return a detector that returns these candidates alone, always."""
        ...


class FeatureLook(Protocol):
    """The features of a detector at one image."""

    def of_candidates(self, indices: Iterable[int], numbers: Sequence[int]) -> Iterator[list[Feature]]:
        """Yield, for each candidate index in order, the features that were asked for.

        Args:
            indices: of the candidates.
            numbers: whose gradients, as positions in :data:`odsg_lightning.names.PARAMETERS`.
        """
        ...


@runtime_checkable
class FeatureDetector(CandidateOutputs, Protocol):
    """Fixed candidates of a detector whose features, between image and head, can be looked at."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers there are, ``"input"`` (the image as the network is given it) among them."""
        ...

    def features(self, image: Tensor, layer: str) -> FeatureLook:
        """Run the detector on an image ``[3, H, W]`` and keep what the gradients by its features need.

        Args:
            image: of the size that the candidates are of.
            layer: a name of :attr:`layers`; ``"level"`` for the level of the pyramid that each candidate is predicted
                from; ``"all"`` for that level and each stage of the network below the pyramid.

        Raises:
            UserInputError: there is no such layer; the message lists those there are.
        """
        ...

    def rivals(self, image: Tensor) -> "FeatureDetector":
        """Return the same candidates, each asked for the class with the highest logit besides its own.

        Raises:
            UserInputError: there is no other class.
        """
        ...


@runtime_checkable
class BatchDetector(Detector, Protocol):
    """A detector that can run several images of one size at once, where no gradient is asked for."""

    def detect_batch(self, images: Sequence[Tensor]) -> list[Detections]:
        """Return what :meth:`detect` does of images of one size ``[3, H, W]``, up to rounding and without a graph."""
        ...


@runtime_checkable
class ProposingDetector(Detector, Protocol):
    """A detector that says which class probabilities its boxes have, before it suppresses what overlaps."""

    def proposals(self, images: Sequence[Tensor]) -> list[Proposals]:
        """Return what each of several images of one size ``[3, H, W]`` holds, as one batch and without a graph."""
        ...
