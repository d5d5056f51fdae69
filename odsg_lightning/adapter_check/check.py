"""A detector of one's own, checked before it is audited: what is wrong with it, in plain words."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from odsg_lightning.adapter_check.calls import check_batch, check_mode, check_repeatable, check_sizes, check_state
from odsg_lightning.adapter_check.frame import check_format, check_frame
from odsg_lightning.adapter_check.gradients import check_graph, check_slopes
from odsg_lightning.adapter_check.look import Look, truth_of
from odsg_lightning.adapter_check.result import AdapterCheck, Finding, Verdict
from odsg_lightning.adapter_check.subject import (
    Adapter,
    NoDetectorError,
    Subject,
    UnusableAnswerError,
    opened,
)
from odsg_lightning.adapter_check.values import check_channels, check_labels, check_range, check_scores
from odsg_lightning.detectors.resolve import resolve_adapter
from odsg_lightning.explanations.inputs import as_pixels
from odsg_lightning.text import plain
from odsg_lightning.types import AuditSample

_CHECKS: tuple[tuple[str, Callable[[Look], Verdict]], ...] = (
    ("mode", check_mode),
    ("repeatable", check_repeatable),
    ("differentiable", check_graph),
    ("box format", check_format),
    ("box frame", check_frame),
    ("scores", check_scores),
    ("labels", check_labels),
    ("image range", check_range),
    ("channel order", check_channels),
    ("batch", check_batch),
    ("image sizes", check_sizes),
)


def check_adapter(
    module: object,
    image: Any,
    *,
    annotations: AuditSample | Mapping[str, Any] | None = None,
    num_classes: int | None = None,
    adapter: Adapter = resolve_adapter,
) -> AdapterCheck:
    """Check that a detector does what audits need, and say what is wrong where it does not.

    Looked at are the form of what ``detect`` returns; whether each of the five numbers has a gradient by the pixels,
    and whether it is right (finite differences, in float64 where the model can be copied); whether boxes are XYXY
    pixels of the image; scores and labels; the range and the channel order of the pixels; whether calls repeat, agree
    alone and in a batch, and leave the model as it was. It takes 25 to 60 forward passes and 20 backward passes, and
    leaves the model as it was.

    Args:
        module: a LightningModule or a model, as you would train it, or an object with a method ``detect``.
        image: in which the detector finds something: a tensor ``[3, H, W]`` RGB from 0 to 255, an array ``[H, W, 3]``
            or a Pillow image. Of a trained detector more can be told than of one with random weights.
        annotations: of this image, an :class:`~odsg_lightning.types.AuditSample` or a mapping with ``"boxes"`` ``[G,
            4]`` XYXY in pixels and ``"labels"`` ``[G]`` from 0. They decide what the detections alone cannot: formats,
            the label base, the range of the pixels, the order of the channels.
        num_classes: without a background.
        adapter: makes the detector, as that of :class:`~odsg_lightning.ODSmoothGradCallback`.

    Returns:
        The findings; ``print`` shows them as a table. A wrong adapter is a finding and never raises.

    Raises:
        UserInputError: the image or the annotations are none.

    Example:
        >>> from odsg_lightning.types import Detections
        >>> class Mine:
        ...     def detect(self, images):
        ...         boxes = torch.tensor([[8.0, 8.0, 40.0, 40.0]])
        ...         return [Detections(boxes, image.mean()[None] / 255, torch.tensor([0])) for image in images]
        >>> check_adapter(Mine(), torch.full((3, 64, 64), 99.0))["differentiable"].words
        'The boxes have no graph, the scores have one: something in `detect` runs under torch.no_grad or ...'
    """
    pixels = as_pixels(image).float()
    truth_of(annotations, torch.device("cpu"))  # the caller's mistakes are raised, before the adapter's are found
    try:
        with opened(module, adapter) as subject:
            return AdapterCheck(tuple(_findings(subject, module, adapter, pixels, annotations, num_classes)))
    except NoDetectorError as error:
        return AdapterCheck((Finding("adapter", "failure", str(error)),))


def _findings(
    subject: Subject,
    module: object,
    adapter: Adapter,
    pixels: torch.Tensor,
    annotations: AuditSample | Mapping[str, Any] | None,
    num_classes: int | None,
) -> Iterator[Finding]:
    image = pixels.to(subject.device)
    state = check_state(subject, image)  # of the first call: a second one may find what the first has changed
    try:
        (found,) = subject.detect(image)
    except UnusableAnswerError as error:
        yield Finding("outputs", "failure", str(error))
        return
    if len(found):
        yield Finding("outputs", "ok", f"{len(found)} detections, as tensors of the shapes and types expected.")
    else:
        nothing = "Nothing is detected. Give an image in which there is something, or lower a threshold in the model."
        yield Finding("outputs", "warning", nothing)
    look = Look(subject, image, found, truth_of(annotations, image.device), num_classes)
    statuses = {}
    for name, check in _CHECKS:
        finding = _finding(name, partial(check, look))
        statuses[name] = finding.status
        yield finding
        if name == "differentiable" and "failure" not in (statuses["repeatable"], finding.status):
            yield _finding("finite differences", partial(check_slopes, look, module, adapter))
    yield Finding("state", *state)


def _finding(name: str, check: Callable[[], Verdict]) -> Finding:
    try:
        return Finding(name, *check())
    except UnusableAnswerError as error:
        return Finding(name, "failure", str(error))
    except Exception as error:  # somebody's own forward or backward pass may raise anything
        return Finding(name, "failure", f"This raised {type(error).__name__}: {plain(str(error), 200)}")
