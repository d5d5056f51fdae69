"""Detectors of transformers in the table of detectors; the tests compare the others, which refine their boxes."""

from collections.abc import Callable

import torch
import transformers
from row import Row, made_loud

from odsg_lightning.detectors.transformers import PROCESSORS, TransformersAdapter

_STEP = 1e-5
"""Of the finite differences: untrained queries find boxes a hundredth of a pixel apart, and must not change places."""


def _maker(kind: str) -> Callable[[int], TransformersAdapter]:
    def make(size: int) -> TransformersAdapter:
        backbone = transformers.ResNetConfig(out_features=["stage4"])
        config = getattr(transformers, f"{kind}Config")(backbone_config=backbone, num_labels=4)
        model = getattr(transformers, f"{kind}ForObjectDetection")(config).eval()
        made_loud(model, lambda: model(torch.rand(1, 3, size, size)))
        # transformers normalises in single precision, which finite differences see
        processor = getattr(transformers, PROCESSORS[f"{kind}ForObjectDetection"])
        return TransformersAdapter(model, processor(size={"height": size, "width": size}, do_normalize=False))

    return make


_PROCESSOR = "keep the image processor in the module"
ROWS = [
    Row("transformers DETR-R50", _maker("Detr"), _PROCESSOR, step=_STEP),
    Row("transformers Conditional DETR-R50", _maker("ConditionalDetr"), _PROCESSOR, step=_STEP),
]
