"""One forward pass of a backbone for several images, given back image by image to what runs for each by itself."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from odsg_lightning.detectors.engine.backbone import BackboneEngine
from odsg_lightning.detectors.engine.head import Head
from odsg_lightning.detectors.engine.normalization import InputNormalization
from odsg_lightning.detectors.engine.window import UnsupportedModelError


def replayable(module: nn.Module) -> bool:
    """Whether a module can be replayed: hooks of its own would be called twice, a forward pass of its own be lost."""
    return not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def replays(
    model: nn.Module, engine: BackboneEngine, head: Head, images: Sequence[InputNormalization]
) -> Iterator[AbstractContextManager[None]]:
    """Run a model's backbone once on several images, and its head if that is local.

    Args:
        model: in eval mode.
        engine: of its backbone; it records them all.
        head: of the model.
        images: as they are given to the model, of one size.

    Yields:
        For each image a context in which the backbone and the head run nothing, and return what they gave for it.
    """
    detector: Any = model
    with torch.autocast(images[0].given.device.type, enabled=False):
        pixels = detector.preprocess_image([{"image": image.given} for image in images]).tensor
        with engine.recording():
            features = detector.backbone(pixels)
        together = head.is_local and replayable(detector.head)
        outputs = detector.head([features[name] for name in detector.head_in_features]) if together else None
    for index in range(len(images)):
        here = slice(index, index + 1)
        of_one = {name: feature[here] for name, feature in features.items()}
        of_head = None if outputs is None else [[level[here] for level in levels] for levels in outputs]
        yield _replay(detector, pixels[here], of_one, of_head)


@contextmanager
def _replay(
    model: Any, pixels: Tensor, features: dict[str, Tensor], outputs: list[list[Tensor]] | None
) -> Iterator[None]:
    """Let backbone and head return what was recorded.

    Raises:
        UnsupportedModelError: they are given something else than in the batch.
    """

    def backbone(given: Tensor) -> dict[str, Tensor]:
        if not torch.equal(given, pixels):
            raise UnsupportedModelError("the backbone's input differs from that in a batch")
        return features

    def head(given: list[Tensor]) -> Any:
        if any(one is not features[name] for one, name in zip(given, model.head_in_features, strict=True)):
            raise UnsupportedModelError("the head's input differs from that in a batch")
        return outputs

    model.backbone.forward = backbone
    if outputs is not None:
        model.head.forward = head
    try:
        yield
    finally:
        del model.backbone.forward
        if outputs is not None:
            del model.head.forward
