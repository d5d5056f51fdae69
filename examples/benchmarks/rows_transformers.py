"""Detectors of transformers in the table of detectors."""

from collections.abc import Callable
from typing import Any

import transformers
from row import Row, detached_held, made_lively

from odsg_lightning.detectors.transformers import PROCESSORS, TransformersAdapter

_STEP = 1e-5
"""Of the finite differences: untrained queries find boxes a hundredth of a pixel apart, and must not change places."""


def _maker(kind: str, backbone: Any, **settings: Any) -> Callable[[int], TransformersAdapter]:
    def make(size: int) -> TransformersAdapter:
        config = getattr(transformers, f"{kind}Config")(backbone_config=backbone, num_labels=4, **settings)
        model = made_lively(getattr(transformers, f"{kind}ForObjectDetection")(config))
        # transformers normalises in single precision, which finite differences see
        processor = getattr(transformers, PROCESSORS[f"{kind}ForObjectDetection"])
        return TransformersAdapter(model, processor(size={"height": size, "width": size}, do_normalize=False))

    return make


def _refining(name: str, make: Callable[[int], TransformersAdapter]) -> Row:
    return Row(name, make, f"boxes are detached; {_PROCESSOR}", detached_held, _STEP)


_PROCESSOR = "audit with its image processor"
_STAGES = ["stage2", "stage3", "stage4"]
_LAST, _THREE = (transformers.ResNetConfig(out_features=stages) for stages in (["stage4"], _STAGES))
_OF_RT_DETR = transformers.RTDetrResNetConfig(out_features=_STAGES)
_REFINED = {"with_box_refine": True, "num_feature_levels": 4}
_CHANNELS = {"encoder_in_channels": [512, 1024, 2048]}
ROWS = [
    Row("transformers DETR-R50", _maker("Detr", _LAST), _PROCESSOR, step=_STEP),
    Row("transformers Conditional DETR-R50", _maker("ConditionalDetr", _LAST), _PROCESSOR, step=_STEP),
    _refining("transformers Deformable DETR-R50", _maker("DeformableDetr", _THREE, **_REFINED)),
    _refining(
        "transformers Deformable DETR-R50, two stages", _maker("DeformableDetr", _THREE, two_stage=True, **_REFINED)
    ),
    _refining("transformers RT-DETR-R50", _maker("RTDetr", _OF_RT_DETR, **_CHANNELS)),
    _refining("transformers RT-DETRv2-R50", _maker("RTDetrV2", _OF_RT_DETR, **_CHANNELS)),
    _refining("transformers D-FINE-R50", _maker("DFine", _OF_RT_DETR, **_CHANNELS)),
]
