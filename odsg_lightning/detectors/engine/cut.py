"""The cut engine: Detectron2's own decoding and a small part of the head under autograd, the backbone by itself.

A plain backward pass for one number goes through all that the head computed for every cell or proposal. Here the
detector runs once without a graph, and the graph is cut behind the backbone and behind the head:

    image -> backbone -> | features -> head -> | head's outputs -> decoding, NMS -> detections
             an engine   | recomputed in part  | autograd, as Detectron2 runs it
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from odsg_lightning.detectors.engine.backbone import BackboneEngine
from odsg_lightning.detectors.engine.chunks import Cotangents, Frame, vjp_in_chunks
from odsg_lightning.detectors.engine.jacobian import Jacobian, jacobians
from odsg_lightning.detectors.engine.normalization import InputNormalization
from odsg_lightning.detectors.engine.parameters import Snapshot, frozen
from odsg_lightning.detectors.engine.window import UnsupportedModelError, Window
from odsg_lightning.names import PARAMETERS
from odsg_lightning.saliency.matching import match_one_to_one
from odsg_lightning.saliency.protocol import Linearization
from odsg_lightning.types import Detections, LocalGradient

_TOGETHER = 16
"""Detections that share their passes through the decoding."""


class Head(Protocol):
    """A detector's head, recorded in one forward pass."""

    features: list[Tensor]
    """What it was given."""
    leaves: list[Tensor]
    """Its outputs, at which autograd started again."""

    def recording(self) -> AbstractContextManager[None]:
        """Record the head's next forward pass; grad mode is on behind it."""
        ...

    def cotangents(self, jacobian: Jacobian) -> list[Window | None]:
        """Carry derivatives by the leaves back to the features, for each of them; None where they are zero."""
        ...


class CutLinearization:
    """A Detectron2 detector at one image; see :class:`odsg_lightning.saliency.protocol.Linearization`.

    Args:
        model: in eval mode.
        head: of this model.
        backbone: engine for ``model.backbone``.
        image: ``[3, H, W]`` RGB, 0 to 255.
        input_format: channel order of the model.
        detect: runs the model on one image.
        plain: plain autograd at the same image, for detections whose head cannot be recomputed after all.

    Raises:
        UnsupportedModelError: the forward pass showed that the model is not built in the way this engine knows.
    """

    def __init__(
        self,
        model: nn.Module,
        head: Head,
        backbone: BackboneEngine,
        image: Tensor,
        input_format: str,
        detect: Callable[[Tensor], Detections],
        plain: Callable[[], Linearization],
    ) -> None:
        """See the class for the arguments."""
        self._model, self._head, self._backbone, self._plain = model, head, backbone, plain
        self._pixels = InputNormalization(model, image, input_format)
        outputs: list[tuple[Tensor, dict[str, Tensor]]] = []

        def after_backbone(module: nn.Module, args: tuple[Any, ...], features: dict[str, Tensor]) -> None:
            outputs.append((args[0].detach(), dict(features)))

        with torch.inference_mode(False), torch.no_grad(), frozen(model), ExitStack() as hooks:
            hooks.enter_context(backbone.recording())
            hooks.callback(model.get_submodule("backbone").register_forward_hook(after_backbone).remove)
            hooks.enter_context(head.recording())
            self._outputs = detect(image.detach())
        if len(outputs) != 1:
            raise UnsupportedModelError(f"the backbone was called {len(outputs)} times")
        if len(self._outputs) > 0 and not (self._outputs.boxes.requires_grad and self._outputs.scores.requires_grad):
            raise UnsupportedModelError("decoding the head's outputs leaves no graph")
        ((pixels, features),) = outputs
        self._pixels.check(pixels)
        self._names = _names(head.features, features)
        self._frame = Frame(pixels, {name: (feature.shape[2], feature.shape[3]) for name, feature in features.items()})
        self._snapshot = Snapshot(model)
        self.detections = self._outputs.detach()

    def gradients(self, indices: Iterable[int]) -> Iterator[LocalGradient]:
        """Yield the gradients of each detection index, on the part of the image that they reach.

        Raises:
            RuntimeError: the model's weights were changed since the forward pass.
        """
        indices = list(indices)
        done = 0
        try:
            objects = map(self._cotangents, self._jacobians(indices))
            for window in vjp_in_chunks(self._vjp, objects, self._frame):
                yield self._pixels.to_image(window or self._zero())
                done += 1
        except UnsupportedModelError as reason:
            warn_of_fallback(reason)
        if done < len(indices):
            yield from self._plain_gradients(indices[done:])

    def _jacobians(self, indices: Sequence[int]) -> Iterator[Jacobian]:
        """Yield the derivatives of each detection's five numbers by the head's outputs."""
        for start in range(0, len(indices), _TOGETHER):
            self._snapshot.check()
            with torch.inference_mode(False), torch.enable_grad():
                several = list(jacobians(self._outputs, self._head.leaves, indices[start : start + _TOGETHER]))
            yield from several

    def _cotangents(self, jacobian: Jacobian) -> Cotangents:
        """Return a detection's five cotangents of the backbone's features."""
        self._snapshot.check()
        with torch.inference_mode(False), torch.enable_grad(), frozen(self._model):
            windows = self._head.cotangents(jacobian)
        return {name: window for name, window in zip(self._names, windows, strict=True) if window is not None}

    def _vjp(self, cotangents: Cotangents) -> Window:
        self._snapshot.check()
        with torch.inference_mode(False), torch.enable_grad():
            return self._backbone.vjp(cotangents)

    def _zero(self) -> Window:
        """Return the gradients of numbers that do not depend on the image: clipped, or saturated."""
        return Window(self._frame.pixels.new_zeros(len(PARAMETERS), 3, 1, 1))

    def _plain_gradients(self, indices: list[int]) -> Iterator[LocalGradient]:
        """Yield gradients by plain autograd, whose forward pass may round in another way and so order differently."""
        ours, plain = self.detections, self._plain()
        theirs = plain.detections
        matched = indices
        same_order = torch.equal(ours.labels, theirs.labels) and torch.allclose(ours.boxes, theirs.boxes, rtol=1e-4)
        if not same_order:
            matches, _ = match_one_to_one(ours.boxes, ours.labels, theirs.boxes, theirs.labels, 0.9)
            matched = [int(matches[index]) for index in indices]
        if -1 in matched:
            raise RuntimeError(
                "Expected plain autograd to find the same detections in the same image again, but it did not: "
                "explain this detector with engine='autograd'."
            )
        yield from plain.gradients(matched)


def warn_of_fallback(reason: UnsupportedModelError) -> None:
    """Say that plain autograd runs instead, and why; Python shows the same warning once."""
    warnings.warn(
        f"Plain autograd runs for this image instead of a faster engine: {reason}.", RuntimeWarning, stacklevel=2
    )


def _names(used: list[Tensor], features: dict[str, Tensor]) -> list[str]:
    """Return which of the backbone's features a head was given: the very tensors, not equal ones."""
    known = {id(feature): name for name, feature in features.items()}
    names = [known.get(id(feature), "") for feature in used]
    if "" in names or len(set(names)) < len(names):
        raise UnsupportedModelError("the head is not given the backbone's features, each once")
    return names
