"""Several noise samples of an image in one forward pass of the backbone, where a GPU would wait for launches.

The rest of the detector runs for each of them by itself, as Detectron2 runs it: 0.5 cannot differentiate a batch. What
is batched are the backbones that the windowed engine knows. Autograd through a graph of B images costs B times as much
for each of them, which is more than one forward pass can save.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from odsg_lightning.detectors.engine.backbone import BackboneEngine
from odsg_lightning.detectors.engine.parameters import Snapshot
from odsg_lightning.detectors.engine.window import UnsupportedModelError, Window
from odsg_lightning.detectors.engine.windowed import WindowedBackbone
from odsg_lightning.saliency.memory import free_memory, out_of_memory

Result = TypeVar("Result")

_FLOATS_PER_PIXEL = 160
"""Of one image's pass through a ResNet-FPN: features, masks of the ReLUs, and the widest maps while they live."""
_SHARE = 4
"""Of the free memory a batch may take one in so many parts: heads and backward passes need some, too."""
_MOST = 16
"""Images of a batch: more of them fill a GPU no better, and are run in vain where samples stop early."""


def samples_at_once(image: Tensor, device: torch.device) -> int:
    """Return how many noise samples of an image ``[3, H, W]`` may run at once: one on a CPU, which gains nothing."""
    if device.type != "cuda":
        return 1
    each = _FLOATS_PER_PIXEL * image.shape[1] * image.shape[2] * image.element_size()
    return max(1, min(_MOST, int(free_memory(device) / (_SHARE * each))))


def batchable(model: nn.Module, engine: BackboneEngine | None) -> WindowedBackbone | None:
    """Return the engine of a model's backbone if it can record several images at once; None if it cannot."""
    backbone: Any = model.get_submodule("backbone")
    # In a replay the backbone's own hooks would be called again, and a forward pass of its own be lost.
    plain = not (backbone._forward_hooks or backbone._forward_pre_hooks or "forward" in vars(backbone))
    return engine if plain and isinstance(engine, WindowedBackbone) else None


def in_batches(
    images: Iterator[Tensor], limit: int, start: Callable[[list[Tensor]], Sequence[Callable[[], Result]]]
) -> Iterator[Result]:
    """Yield a result for each image, in order, from batches that are halved when memory runs out.

    Args:
        images: each is taken once, and not before its batch.
        limit: most images of a batch.
        start: begins a batch, and returns for each of its images what finishes it.

    Raises:
        torch.cuda.OutOfMemoryError: memory does not suffice for a single image.
    """
    waiting: deque[Tensor] = deque()
    started: deque[Callable[[], Result]] = deque()  # those of the first that wait
    while True:
        if not started:
            waiting.extend(islice(images, max(0, limit - len(waiting))))
        if not waiting:
            return
        try:
            if not started:
                started.extend(start(list(islice(waiting, limit))))
            finished = [started[0]()]
        except RuntimeError as error:
            if limit == 1 or not out_of_memory(error):
                raise
            limit //= 2
            started.clear()
            continue  # when the traceback has let go of what the batch had allocated
        waiting.popleft()
        started.popleft()
        yield finished.pop()  # and is not kept here: the caller lets go of one before the next is made


class ReplayedBackbone:
    """An engine for one image of a batch that ran already.

    Its ``recording()`` runs nothing: the backbone returns what it gave for this image.

    Args:
        model: with its ``backbone``.
        recorded: the engine that recorded the batch, of this image.
        pixels: ``[1, 3, H, W]`` what the backbone was given.
        features: what it returned, each ``[1, C, h, w]``.
        weights: of the model, when it did.
    """

    def __init__(
        self,
        model: nn.Module,
        recorded: BackboneEngine,
        pixels: Tensor,
        features: Mapping[str, Tensor],
        weights: Snapshot,
    ) -> None:
        """See the class for the arguments."""
        self._backbone: Any = model.get_submodule("backbone")
        self._recorded, self._pixels, self._features, self._weights = recorded, pixels, dict(features), weights

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Let the backbone return the recorded features inside.

        Raises:
            UnsupportedModelError: it is given something else than in the batch.
            RuntimeError: the model's weights were changed since.
        """
        self._weights.check()

        def replay(pixels: Tensor) -> dict[str, Tensor]:
            if not torch.equal(pixels, self._pixels):
                raise UnsupportedModelError("the backbone's input differs from that in a batch")
            return self._features

        self._backbone.forward = replay
        try:
            yield
        finally:
            del self._backbone.forward

    def vjp(self, cotangents: Mapping[str, Window]) -> Window:
        """See :class:`odsg_lightning.detectors.engine.backbone.BackboneEngine`."""
        return self._recorded.vjp(cotangents)


def record_batch(model: nn.Module, engine: WindowedBackbone, images: Sequence[Tensor]) -> list[ReplayedBackbone]:
    """Run a model's backbone once on several images.

    Args:
        model: in eval mode.
        engine: of its backbone.
        images: each ``[3, H, W]``, of one size, in the channel order of the model.

    Returns:
        For each image an engine to linearize the model with.
    """
    detector: Any = model
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(images[0].device.type, enabled=False):
        pixels = detector.preprocess_image([{"image": image} for image in images]).tensor
        with engine.recording():
            features = detector.backbone(pixels)
    weights = Snapshot(model)
    return [
        ReplayedBackbone(
            model,
            engine.of_image(index),
            pixels[index : index + 1],
            {name: feature[index : index + 1] for name, feature in features.items()},
            weights,
        )
        for index in range(len(images))
    ]
