"""The cut engine: Detectron2's own decoding and a small part of the head under autograd, the backbone by itself.

A plain backward pass for one number goes through all that the head computed for every cell or proposal. Here the
detector runs once without a graph, and the graph is cut behind the backbone and behind the head:

    image -> backbone -> | features -> head -> | head's outputs -> decoding, NMS -> detections
             an engine   | recomputed in part  | autograd, as Detectron2 runs it
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from odsg_lightning.detectors.engine.backbone import BackboneEngine
from odsg_lightning.detectors.engine.chunks import Cotangents, Frame, vjp_in_chunks
from odsg_lightning.detectors.engine.head import Head
from odsg_lightning.detectors.engine.jacobian import Jacobian, jacobians
from odsg_lightning.detectors.engine.normalization import InputNormalization
from odsg_lightning.detectors.engine.parameters import Snapshot, frozen
from odsg_lightning.detectors.engine.replay import replays
from odsg_lightning.detectors.engine.window import UnsupportedModelError, Window
from odsg_lightning.names import PARAMETERS
from odsg_lightning.saliency.matching import match_one_to_one
from odsg_lightning.saliency.protocol import Linearization, Track
from odsg_lightning.types import Detections, LocalGradient

_TOGETHER = 16
"""Detections that share their passes through the decoding."""


class CutBatch:
    """A Detectron2 detector at images of one size: a :class:`odsg_lightning.saliency.protocol.JointLinearization`.

    Args:
        model: in eval mode.
        head: of this model.
        backbone: engine for ``model.backbone``; for several images the windowed one.
        images: ``[3, H, W]`` each, RGB, 0 to 255.
        input_format: channel order of the model.
        detect: runs the model on one image.
        plain: plain autograd at one image, for detections whose head cannot be recomputed after all.

    Raises:
        UnsupportedModelError: the forward pass showed that the model is not built in the way this engine knows.
    """

    def __init__(
        self,
        model: nn.Module,
        head: Head,
        backbone: BackboneEngine,
        images: Sequence[Tensor],
        input_format: str,
        detect: Callable[[Tensor], Detections],
        plain: Callable[[Tensor], Linearization],
    ) -> None:
        """See the class for the arguments."""
        self._model, self._head, self._backbone = model, head, backbone
        self._images, self._plain = images, lru_cache(maxsize=1)(lambda number: plain(images[number]))
        with torch.inference_mode(False), torch.no_grad(), frozen(model):
            prepared = [InputNormalization(model, image, input_format) for image in images]
            runs = [backbone.recording()] if len(images) == 1 else replays(model, backbone, head, prepared)
            self._outputs: list[Detections] = []
            for image, normalization, run in zip(images, prepared, runs, strict=True):
                pixels, features = self._run(image, run, detect)
                normalization.check(pixels)
                names = _names(head.records[-1].features, features)
        self._pixels, self._names = prepared[0], names
        self._frame = Frame(pixels, {name: (feature.shape[2], feature.shape[3]) for name, feature in features.items()})
        self._snapshot = Snapshot(model)
        self.detections = [_on(pixels.device, outputs.detach()) for outputs in self._outputs]

    def _run(
        self, image: Tensor, run: AbstractContextManager[None], detect: Callable[[Tensor], Detections]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Detect, and return what the backbone was given and returned."""
        seen: list[tuple[Tensor, dict[str, Tensor]]] = []

        def after_backbone(module: nn.Module, args: tuple[Any, ...], features: dict[str, Tensor]) -> None:
            seen.append((args[0].detach(), dict(features)))

        with torch.no_grad(), ExitStack() as hooks:
            hooks.enter_context(run)
            hooks.callback(self._model.get_submodule("backbone").register_forward_hook(after_backbone).remove)
            hooks.enter_context(self._head.recording())
            outputs = detect(image.detach())
        if len(seen) != 1:
            raise UnsupportedModelError(f"the backbone was called {len(seen)} times")
        if len(outputs) > 0 and not (outputs.boxes.requires_grad and outputs.scores.requires_grad):
            raise UnsupportedModelError("decoding the head's outputs leaves no graph")
        self._outputs.append(outputs)
        return seen[0]

    def gradients(self, tracks: Iterable[Track]) -> Iterator[LocalGradient]:
        """Yield the gradients ``[n, 5, 3, h, w]`` of each object, on the part of the image that they reach.

        Raises:
            RuntimeError: the model's weights were changed since the forward pass.
        """
        found = [{image: index for image, index in enumerate(track) if index >= 0} for track in tracks]
        done = 0
        try:
            self._snapshot.check()
            jacobians = [self._jacobians(image, found) for image in range(len(self._images))]
            objects = (self._cotangents({i: jacobians[i][index] for i, index in track.items()}) for track in found)
            for window, track in zip(vjp_in_chunks(self._vjp, objects, self._frame), found, strict=True):
                yield self._pixels.to_image(window or self._zero(len(track)), len(track))
                done += 1
        except UnsupportedModelError as reason:
            warn_of_fallback(reason)
        for track in found[done:]:
            yield self._plain_gradient(track)

    def _jacobians(self, image: int, found: Sequence[Mapping[int, int]]) -> dict[int, Jacobian]:
        """Return the derivatives of an image's detections by the head's outputs."""
        indices = sorted({track[image] for track in found if image in track})
        derivatives: list[Jacobian] = []
        for start in range(0, len(indices), _TOGETHER):
            some = indices[start : start + _TOGETHER]
            with torch.inference_mode(False), torch.enable_grad():
                derivatives.extend(jacobians(self._outputs[image], self._head.records[image].leaves, some))
        return dict(zip(indices, derivatives, strict=True))

    def _cotangents(self, jacobians: Mapping[int, Jacobian]) -> Cotangents:
        """Return an object's five cotangents of the backbone's features, of each image in which it was found."""
        self._snapshot.check()
        with torch.inference_mode(False), torch.enable_grad(), frozen(self._model):
            windows = self._head.cotangents(jacobians)
        return {name: window for name, window in zip(self._names, windows, strict=True) if window is not None}

    def _vjp(self, cotangents: Cotangents) -> Window:
        self._snapshot.check()
        with torch.inference_mode(False), torch.enable_grad():
            return self._backbone.vjp(cotangents)

    def _zero(self, images: int) -> Window:
        """Return the gradients of numbers that do not depend on the image: clipped, or saturated."""
        return Window(self._frame.pixels.new_zeros(images * len(PARAMETERS), 3, 1, 1))

    def _plain_gradient(self, track: Mapping[int, int]) -> LocalGradient:
        """Return gradients by plain autograd, whose forward pass may round in another way and so order differently."""
        return LocalGradient(torch.stack([self._plain_in(*place) for place in track.items()]))

    def _plain_in(self, image: int, index: int) -> Tensor:
        ours, plain = self.detections[image], self._plain(image)
        theirs = plain.detections
        same_order = torch.equal(ours.labels, theirs.labels) and torch.allclose(ours.boxes, theirs.boxes, rtol=1e-4)
        if not same_order:
            matches, _ = match_one_to_one(ours.boxes, ours.labels, theirs.boxes, theirs.labels, 0.9)
            index = int(matches[index])
        if index < 0:
            raise RuntimeError(
                "Expected plain autograd to find the same detections in the same image again, but it did not: "
                "explain this detector with engine='autograd'."
            )
        (gradient,) = plain.gradients([index])
        return gradient.values


class CutLinearization:
    """One image of a batch; see :class:`odsg_lightning.saliency.protocol.Linearization`."""

    def __init__(self, batch: CutBatch) -> None:
        """Take a batch of one image."""
        self._batch = batch
        (self.detections,) = batch.detections

    def gradients(self, indices: Iterable[int]) -> Iterator[LocalGradient]:
        """Yield the gradients of each detection index, on the part of the image that they reach."""
        for gradient in self._batch.gradients([index] for index in indices):
            yield gradient._replace(values=gradient.values[0])


def warn_of_fallback(reason: UnsupportedModelError) -> None:
    """Say that plain autograd runs instead, and why; Python shows the same warning once."""
    warnings.warn(
        f"Plain autograd runs for this image instead of a faster engine: {reason}.", RuntimeWarning, stacklevel=2
    )


def _on(device: torch.device, detections: Detections) -> Detections:
    return Detections(detections.boxes.to(device), detections.scores.to(device), detections.labels.to(device))


def _names(used: list[Tensor], features: dict[str, Tensor]) -> list[str]:
    """Return which of the backbone's features a head was given: the very tensors, not equal ones."""
    known = {id(feature): name for name, feature in features.items()}
    names = [known.get(id(feature), "") for feature in used]
    if "" in names or len(set(names)) < len(names):
        raise UnsupportedModelError("the head is not given the backbone's features, each once")
    return names
