"""The adapter that is checked: opened as an audit opens it, asked, and its answers looked at before they are used."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from odsg_lightning.audit.isolation import isolated
from odsg_lightning.errors import OdsgError
from odsg_lightning.saliency.protocol import Detector
from odsg_lightning.text import plain
from odsg_lightning.types import Detections

Adapter = Callable[[Any], Detector]


class UnusableAnswerError(Exception):
    """``detect`` raised, or returned what cannot be used; the message is a finding's words."""


class NoDetectorError(Exception):
    """The adapter makes no detector; the message is a finding's words."""


@dataclass(frozen=True)
class Subject:
    """A detector in the state in which audits run it.

    Attributes:
        detector: what the adapter made.
        inside: the module that audits isolate, as they do; None if an adapter alone was given.
        outside: modules that the detector holds beside it, left in their own mode.
    """

    detector: Detector
    inside: nn.Module | None
    outside: tuple[nn.Module, ...]

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """All outermost modules."""
        return (*(() if self.inside is None else (self.inside,)), *self.outside)

    @property
    def device(self) -> torch.device:
        """Where the weights lie; the CPU without weights."""
        weights = (parameter.device for module in self.modules for parameter in module.parameters())
        return next(weights, torch.device("cpu"))

    def detect(self, *images: Tensor, graph: bool = False) -> list[Detections]:
        """Ask the detector, and return what it says of each image.

        Args:
            images: ``[3, H, W]``; it gets copies, except with a graph.
            graph: whether to return it; otherwise the answer is detached.

        Raises:
            UnusableAnswerError: see there.
        """
        given = [image if graph else image.clone() for image in images]
        with torch.set_grad_enabled(graph):
            try:
                answer = self.detector.detect(given)
            except Exception as error:  # whatever a detector of somebody's own raises is a finding
                raise UnusableAnswerError(_words_of(error, len(images))) from error
        problem = answer_problem(answer, images)
        if problem is not None:
            raise UnusableAnswerError(problem)
        return list(answer) if graph else [detections.detach() for detections in answer]


@contextmanager
def opened(module: object, adapter: Adapter) -> Iterator[Subject]:
    """Make a detector and give it out; whatever state it had is restored at the end.

    Raises:
        NoDetectorError: the adapter raises, or returns what has no method ``detect``.
    """
    inside = module if isinstance(module, nn.Module) else None
    with ExitStack() as stack, torch.inference_mode(False):
        if inside is not None:
            stack.enter_context(isolated(inside))
        detector = _made(module, adapter)
        known = set() if inside is None else set(inside.modules())
        held = vars(detector).values() if hasattr(detector, "__dict__") and not isinstance(detector, nn.Module) else ()
        outside = tuple(value for value in held if isinstance(value, nn.Module) and value not in known)
        for other in outside:
            modes = [(child, child.training) for child in other.modules()]
            stack.enter_context(isolated(other))
            for child, mode in modes:  # audits do not reach it, so it stays in its mode
                child.training = mode
        yield Subject(detector, inside, outside)


def _made(module: object, adapter: Adapter) -> Detector:
    try:
        detector = adapter(module)
    except OdsgError as error:
        raise NoDetectorError(str(error)) from error
    except Exception as error:  # an adapter of somebody's own
        raise NoDetectorError(f"The adapter raised {type(error).__name__}: {plain(str(error), 200)}") from error
    if not isinstance(detector, Detector):
        raise NoDetectorError(
            "Expected the adapter to return an object with a method `detect(images) -> "
            f"list[odsg_lightning.types.Detections]`, but got {type(detector).__name__}."
        )
    return detector


def in_double(module: object) -> object | None:
    """Return a copy of what is checked in float64; None if it cannot be copied."""
    trainer = getattr(module, "_trainer", None)
    try:
        copied = copy.deepcopy(module, {} if trainer is None else {id(trainer): None})
    except Exception:  # a lock, an open file: then the check goes on in the precision that there is
        return None
    for part in [copied, *(vars(copied).values() if hasattr(copied, "__dict__") else ())]:
        if isinstance(part, nn.Module):
            part.double()
    return copied


def answer_problem(answer: object, images: Sequence[Tensor]) -> str | None:
    """Return what is wrong with the form of an answer, and None for an answer as the protocol wants it."""
    wanted = "Expected `detect` to return list[odsg_lightning.types.Detections], one for each image, but got"
    if isinstance(answer, Detections):
        return f"{wanted} one Detections: put it into a list."
    if not isinstance(answer, list | tuple):
        return f"{wanted} {type(answer).__name__}."
    other = next((item for item in answer if not isinstance(item, Detections)), None)
    if other is not None:
        return f"{wanted} a list of {type(other).__name__}: wrap each as Detections(boxes, scores, labels)."
    if len(answer) != len(images):
        return (
            f"{wanted} {len(answer)} for {len(images)} images: `detect` must go through all of `images`, not the first "
            "alone, and take one image as well as several."
        )
    for detections, image in zip(answer, images, strict=True):
        problem = _problem_of(detections, image)
        if problem is not None:
            return problem
    return None


def _problem_of(detections: Detections, image: Tensor) -> str | None:
    for name in ("boxes", "scores", "labels"):
        values: Any = getattr(detections, name)
        if not isinstance(values, Tensor):
            return (
                f"Expected {name} to be a tensor, but got {type(values).__name__}: NumPy and lists cut the graph, and "
                "without it there are no maps. Stay with torch from the image to the result."
            )
        if values.device != image.device:
            return (
                f"Expected {name} on the device of the image, {image.device}, but they are on {values.device}: do not "
                "move results (`.cpu()`), and make new tensors with `device=image.device`."
            )
        if name == "labels":
            if values.dtype not in (torch.int64, torch.int32):
                return f"Expected labels to be int64 class indices, but got {values.dtype}: use `labels.long()`."
        elif not values.is_floating_point():
            return (
                f"Expected {name} to be floating point, but got {values.dtype}: do not round or cast them. Whole "
                "numbers have no gradient, and without it there are no maps."
            )
        elif not bool(values.isfinite().all()):
            return f"Expected {name} to be finite, but some are NaN or infinite."
    return None


def _words_of(error: Exception, n_images: int) -> str:
    """Return what an exception of ``detect`` means, as far as its text tells."""
    text = str(error)
    said = f"`detect` raised {type(error).__name__} on a list of {n_images}: {plain(text, 200).rstrip('.')}."
    lowered = text.lower()
    if "device" in lowered or "cuda" in lowered:
        return f"{said} A wrong device? Make new tensors with `device=image.device`, without `.cuda()` or `.cpu()`."
    if "has no attribute 'shape'" in text or "numpy" in lowered:
        return (
            f"{said} Lists or NumPy arrays in Detections? Boxes, scores and labels are tensors that still have their "
            "graph: no `.tolist()`, no `.numpy()`."
        )
    if "target" in lowered and "none" in lowered:
        return f"{said} In training mode? The model must be in eval mode: hold it inside the LightningModule."
    if "in-place" in lowered:
        return f"{said} Does `detect` change the image in place (`image.div_`, `image /= 255`)? Write `image / 255`."
    return (
        f"{said} It gets a list of RGB images [3, H, W], float, 0 to 255, of one or several sizes, and a list of one, "
        "too: a model that takes batches [N, 3, H, W] needs `image[None]`, or padding to one size and the boxes back."
    )
