"""A detector at one image, and the gradients of its numbers with respect to the pixels."""

from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor

from odsg_lightning.errors import UserInputError
from odsg_lightning.names import PARAMETERS
from odsg_lightning.saliency.batch_norm import RightBatchNorm
from odsg_lightning.saliency.batched import BatchedGradients
from odsg_lightning.saliency.memory import allocated
from odsg_lightning.saliency.options import ANY_DETECTOR, Engine, Precision, check_engine
from odsg_lightning.saliency.protocol import (
    BatchingDetector,
    Detector,
    EngineChoice,
    EngineChoosingDetector,
    JointLinearization,
    Linearization,
    LinearizingDetector,
    Track,
)
from odsg_lightning.types import LocalGradient, LocalMaps


def linearize(
    detector: Detector, image: Tensor, engine: Engine = "auto", precision: Precision = "full", trim: float = 0.0
) -> Linearization:
    """Run a detector on one image and keep what the gradients need.

    Args:
        detector: if it is a :class:`~odsg_lightning.saliency.protocol.LinearizingDetector`, its own gradients are used
            for every engine but ``"batched"`` and ``"autograd"``.
        image: ``[3, H, W]`` RGB, float, 0 to 255. It is copied, and works under ``no_grad`` and ``inference_mode``.
        engine: ``"autograd"`` for one backward pass per output, whatever the detector; ``"batched"`` for several
            outputs in each, which pays where the time goes into starting operations rather than into computing them, as
            for a small detector; ``"auto"`` for the fastest engine of the detector's own, otherwise ``"autograd"``;
            ``"windowed"`` or ``"cut"`` for one by name.
        precision: ``"bf16"`` lets an engine of the detector's own that can do so compute its linear backward pass in
            bfloat16: approximate. Plain autograd is always of full precision.
        trim: lets such an engine, at every block of the network, leave out the rim of what a gradient has reached that
            holds less than this share of it: approximate. ``LocalGradient.dropped`` says how much that was. Plain
            autograd leaves nothing out.

    Raises:
        UserInputError: an unknown engine or precision, or one that the detector does not have; a share out of range.
    """
    check_engine(engine, precision, trim)
    with torch.inference_mode(False), torch.enable_grad():
        if isinstance(detector, LinearizingDetector) and engine not in ANY_DETECTOR:
            return detector.linearize(image.detach().clone(), engine=engine, precision=precision, **_if_any(trim))
        check_has_engine(detector, engine)
        return AutogradLinearization(detector, image, batched=engine == "batched")


def linearize_together(
    detector: Detector,
    images: Iterable[Tensor],
    engine: Engine = "auto",
    precision: Precision = "full",
    trim: float = 0.0,
) -> Iterator[JointLinearization]:
    """Yield what :func:`linearize` returns for images of one size, in order, for as many at a time as pays.

    A :class:`~odsg_lightning.saliency.protocol.BatchingDetector` chooses how many; others take each by itself, when its
    turn has come.
    """
    if not isinstance(detector, BatchingDetector) or engine in ANY_DETECTOR:
        return (SingleLinearization(linearize(detector, image, engine, precision, trim)) for image in images)
    check_engine(engine, precision, trim)
    copies = (image.detach().clone() for image in images)
    linearizations = detector.linearize_together(copies, engine=engine, precision=precision, **_if_any(trim))

    def following() -> JointLinearization | None:
        with torch.inference_mode(False), torch.enable_grad():  # in this call alone, not between two of them
            return next(linearizations, None)

    return iter(following, None)


class SingleLinearization:
    """One image as a :class:`~odsg_lightning.saliency.protocol.JointLinearization`."""

    def __init__(self, linearization: Linearization) -> None:
        """Take the detector at one image."""
        self.linearization = linearization
        self.detections = [linearization.detections]

    def gradients(self, tracks: Iterable[Track]) -> Iterator[LocalGradient]:
        """Yield the gradients ``[1, 5, 3, h, w]`` of each object."""
        for gradient in self.linearization.gradients(index for (index,) in tracks):
            yield gradient._replace(values=gradient.values[None])


def gradient_looks(
    detector: Detector,
    images: Iterable[Tensor],
    engine: Engine = "auto",
    precision: Precision = "full",
    trim: float = 0.0,
) -> Iterator["GradientLook"]:
    """Yield the plain gradient of images of one size; see :func:`linearize_together`."""
    # Not a generator of its own: it would keep one graph while the next is built.
    return map(GradientLook, linearize_together(detector, images, engine, precision, trim))


class GradientLook:
    """The map of a number is the largest magnitude of its three derivatives at each pixel.

    Simonyan, Vedaldi & Zisserman, "Deep Inside Convolutional Networks", 2014.
    """

    def __init__(self, linearization: JointLinearization) -> None:
        """Take the detector at some images."""
        self._linearization = linearization
        self.detections = linearization.detections

    def maps(self, tracks: Iterable[Track]) -> Iterator[LocalMaps]:
        """See :class:`odsg_lightning.saliency.protocol.Look`."""
        for gradient in self._linearization.gradients(tracks):
            yield LocalMaps(gradient.values.abs().amax(dim=2), gradient.top, gradient.left, gradient.dropped)


def engine_choice(
    detector: Detector, engine: Engine = "auto", precision: Precision = "full", trim: float = 0.0
) -> EngineChoice:
    """Return which engine :func:`linearize` will use for this detector, and why."""
    name = type(detector).__name__
    if engine == "batched":
        return EngineChoice("batched", "full", "several outputs in each backward pass, as asked for")
    if not isinstance(detector, LinearizingDetector):
        return EngineChoice("autograd", "full", f"plain autograd: {name} has no gradients of its own")
    if engine == "autograd":
        return EngineChoice("autograd", "full", "plain autograd, as asked for")
    if isinstance(detector, EngineChoosingDetector):
        return detector.choose_engine(engine, precision, **_if_any(trim))
    return EngineChoice(engine, precision, f"gradients of {name}'s own", trim)


def _if_any(trim: float) -> dict[str, float]:
    """Return the argument for a detector's own methods; one that has never heard of it serves exact gradients."""
    return {"trim": trim} if trim else {}


def check_has_engine(detector: Detector, engine: Engine) -> None:
    """Refuse to look for a fast engine in a detector that has plain autograd only.

    Raises:
        UserInputError: says what to ask for instead.
    """
    if engine not in ("auto", *ANY_DETECTOR) and not isinstance(detector, LinearizingDetector):
        raise UserInputError(
            "Expected argument `engine` to be 'auto', 'batched' or 'autograd' for a detector without fast gradients of "
            f"its own, but got {engine!r}: {type(detector).__name__} has no method `linearize`. engine='auto' takes "
            "plain autograd for it."
        )


class AutogradLinearization:
    """The plain way: ``torch.autograd.grad`` of each output, or of several together, exact for every detector.

    ``autograd.grad`` on the image alone leaves no ``.grad`` on any parameter.
    """

    def __init__(self, detector: Detector, image: Tensor, *, batched: bool = False) -> None:
        """Run the detector; see :func:`linearize` for the arguments.

        Raises:
            ValueError: the detector returned objects whose numbers do not depend on the image.
        """
        self._image = image.detach().clone().requires_grad_()
        before = allocated(self._image)
        with RightBatchNorm():
            (detections,) = detector.detect([self._image])
        self._numbers = detections
        if len(detections) > 0 and not detections.parameters.requires_grad:
            raise ValueError(
                "Expected detections that are differentiable with respect to the image, but the boxes and scores of "
                f"{type(detector).__name__}.detect() carry no graph. Remove no_grad / detach from its forward pass."
            )
        self.detections = detections.detach()
        self._gradients = BatchedGradients(self._image, allocated(self._image) - before, None if batched else 1)

    def gradients(self, indices: Iterable[int]) -> Iterator[LocalGradient]:
        """Yield the gradients of each detection index, on the whole image."""
        indices = iter(indices)
        while group := list(islice(indices, max(1, self._gradients.limit // len(PARAMETERS)))):
            numbers = [self._number(index, number) for index in group for number in range(len(PARAMETERS))]
            gradients = self._gradients([number for number in numbers if number.requires_grad])
            rows = (next(gradients) if number.requires_grad else torch.zeros_like(self._image) for number in numbers)
            for _ in group:
                yield LocalGradient(torch.stack(list(islice(rows, len(PARAMETERS)))))

    def _number(self, index: int, parameter: int) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():  # picking the output is part of the graph
            return self._numbers.number(index, parameter)
