"""The detectors of transformers in the table of detectors."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from row import Row, made_loud
from torch import Tensor
from torch.overrides import TorchFunctionMode

from odsg_lightning.detectors.transformers import PROCESSORS, TransformersAdapter

_LABELS = {"num_labels": 4}
_STEP = 1e-5
"""Of the finite differences: untrained queries find boxes a hundredth of a pixel apart, and must not change places."""


@contextmanager
def detached_held(detector: Any) -> Iterator[None]:
    """Let what the model detaches be what it was the first time, whatever the image."""
    forward, values = detector.model.forward, {}

    def held(*args: Any, **inputs: Any) -> Any:
        with _Held(values):
            return forward(*args, **inputs)

    detector.model.forward = held
    try:
        yield
    finally:
        del detector.model.forward


class _Held(TorchFunctionMode):
    def __init__(self, values: dict[int, Tensor]) -> None:
        super().__init__()
        self._values, self._count = values, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is not Tensor.detach:
            return result
        self._count += 1
        return self._values.setdefault(self._count, result)


def _maker(kind: str, stages: tuple[str, ...], **settings: Any) -> Callable[[int], TransformersAdapter]:
    def make(size: int) -> TransformersAdapter:
        backbone = {"Detr": transformers.ResNetConfig}.get(kind.removeprefix("Conditional").removeprefix("Deformable"))
        backbone = (backbone or transformers.RTDetrResNetConfig)(out_features=list(stages))
        config = getattr(transformers, f"{kind}Config")(backbone_config=backbone, **_LABELS, **settings)
        model = getattr(transformers, f"{kind}ForObjectDetection")(config).eval()
        made_loud(model, lambda: model(torch.rand(1, 3, size, size)))
        # transformers normalises in single precision, which finite differences see
        processor = getattr(transformers, PROCESSORS[f"{kind}ForObjectDetection"])
        return TransformersAdapter(model, processor(size={"height": size, "width": size}, do_normalize=False))

    return make


_LAST, _THREE = ("stage4",), ("stage2", "stage3", "stage4")
_PROCESSOR = "keep the image processor in the module"
_REFINED = "boxes are detached between layers (`through_refinement`); " + _PROCESSOR
_BOX_REFINE = {"with_box_refine": True, "num_feature_levels": 4}
_ENCODER = {"encoder_in_channels": [512, 1024, 2048]}
ROWS = [
    Row("transformers DETR-R50", _maker("Detr", _LAST), _PROCESSOR, step=_STEP),
    Row("transformers Conditional DETR-R50", _maker("ConditionalDetr", _LAST), _PROCESSOR, step=_STEP),
    Row(
        "transformers Deformable DETR-R50",
        _maker("DeformableDetr", _THREE, **_BOX_REFINE),
        _REFINED,
        detached_held,
        _STEP,
    ),
    Row("transformers RT-DETR-R50", _maker("RTDetr", _THREE, **_ENCODER), _REFINED, detached_held, _STEP),
    Row("transformers RT-DETRv2-R50", _maker("RTDetrV2", _THREE, **_ENCODER), _REFINED, detached_held, _STEP),
    Row("transformers D-FINE-R50", _maker("DFine", _THREE, **_ENCODER), _REFINED, detached_held, _STEP),
]
