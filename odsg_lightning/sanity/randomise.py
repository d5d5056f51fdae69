"""A detector's weights lost stage by stage, from its outputs down to its first layer."""

import copy
import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn

_PREDICTOR = ("cls_score", "bbox_pred", "box_predictor")
_PYRAMID = re.compile(r"fpn_|top_block$")


def cascade(model: nn.Module, seed: int) -> Iterator[tuple[str, nn.Module]]:
    """Yield a Detectron2 detector with the weights of one stage more randomised each time.

    Cascading randomisation (Adebayo et al., *Sanity Checks for Saliency Maps*, 2018) of the weights of convolutions and
    linear layers: tensors of two and more dimensions. Their elements are permuted and get random signs, so that the
    histogram of magnitudes stays. The signs matter: trained weights are negative on average, and permuted alone they
    leave no unit of a ReLU active, hence gradients of zero instead of maps. Biases, and the statistics and affine
    parameters of normalisation, stay.

    Args:
        model: a RetinaNet or a GeneralizedRCNN. It is left as it is.
        seed: of the permutations; the same seed gives the same weights.

    Yields:
        The stage, see :func:`stages`, and a copy of the model in which it and all stages before it are randomised: the
        same copy every time, changed in place.
    """
    generator = torch.Generator().manual_seed(seed)
    randomised = copy.deepcopy(model)
    for stage, weights in stages(randomised).items():
        for weight in weights:
            order = torch.randperm(weight.numel(), generator=generator)
            signs = torch.randint(2, (weight.numel(),), generator=generator) * 2 - 1
            weight.data = (weight.data.flatten()[order.to(weight.device)] * signs.to(weight)).view_as(weight)
        yield stage, randomised


def stages(model: nn.Module) -> dict[str, list[Tensor]]:
    """Return the weights of a Detectron2 detector by stage, from the outputs down.

    ``predictor``: the last layers, which return logits and box deltas; ``head``: the rest of RetinaNet's head, or of
    Faster R-CNN's RoI heads, and its region proposal network; ``fpn``: the pyramid; then the parts of the backbone:
    ``res5``, ..., ``res2``, ``stem``. Those of another backbone go by the names of its own parts.

    Args:
        model: a RetinaNet or a GeneralizedRCNN.
    """
    named = {"predictor": [], "head": [], "fpn": []}  # type: dict[str, list[Tensor]]
    backbone: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2:
            stage = _stage(name)
            (named if stage in named else backbone).setdefault(stage, []).append(parameter)
    return {stage: weights for stage, weights in (*named.items(), *reversed(backbone.items())) if weights}


def _stage(name: str) -> str:
    first, part, *rest = name.split(".")
    if first != "backbone":
        return "predictor" if part in _PREDICTOR else "head"
    if part == "bottom_up":
        return rest[0]
    return "fpn" if _PYRAMID.match(part) else part
