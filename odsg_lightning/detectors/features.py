"""The features of a Detectron2 model between image and head, and how the numbers of fixed candidates depend on them."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from odsg_lightning.detectors.detectron2_names import Boxes, RetinaNet, assign_boxes_to_levels
from odsg_lightning.detectors.engine.parameters import frozen
from odsg_lightning.detectors.heads import head_features
from odsg_lightning.errors import UserInputError
from odsg_lightning.types import Candidates, Detections, Feature

_INPUT = "input"


class CandidateFeatures:
    """One forward pass whose features are kept; see :class:`odsg_lightning.saliency.protocol.FeatureLook`.

    What lies before the first layer that was asked for has no graph.

    Args:
        model: in eval mode.
        candidates: that ``detect`` returns.
        detect: runs the model on one image.
        image: ``[3, H, W]`` RGB, 0 to 255.
        layer: see :meth:`odsg_lightning.saliency.protocol.FeatureDetector.features`.

    Raises:
        UserInputError: there is no such layer; the message lists those there are.
    """

    def __init__(
        self,
        model: nn.Module,
        candidates: Candidates,
        detect: Callable[[Tensor], Detections],
        image: Tensor,
        layer: str,
    ) -> None:
        """See the class for the arguments."""
        self._model, self._candidates, self._layer = model, candidates, layer
        self._levels, stages = head_features(model), _stages(model)
        if layer not in ("level", "all", *layer_names(model)):
            raise UserInputError(
                f"Expected argument `layer` to be 'level', 'all' or one of {layer_names(model)}, but got {layer!r}."
            )
        self._below = list(stages) if layer == "all" else [layer] if layer in stages or layer == _INPUT else []
        self._kept: dict[str, Tensor] = {}
        backbone = model.get_submodule("backbone")
        with torch.inference_mode(False), torch.enable_grad(), frozen(model), ExitStack() as hooks:
            for name in self._below:
                if name == _INPUT:
                    handle = backbone.register_forward_pre_hook(
                        lambda _, args: (self._keep(_INPUT, args[0]), *args[1:])
                    )
                else:
                    handle = stages[name].register_forward_hook(
                        lambda _, __, output, name=name: self._keep(name, output)
                    )
                hooks.callback(handle.remove)
            if layer in ("level", "all", *self._levels):
                hooks.callback(backbone.register_forward_hook(self._keep_levels).remove)
            self._numbers = detect(image.detach().clone())

    def _keep(self, name: str, tensor: Tensor) -> Tensor:
        kept = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
        self._kept[name] = kept
        return kept

    def _keep_levels(self, module: nn.Module, args: Any, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: self._keep(name, level) if name in self._levels else level for name, level in outputs.items()}

    def of_candidates(self, indices: Iterable[int], numbers: Sequence[int]) -> Iterator[list[Feature]]:
        """See :class:`odsg_lightning.saliency.protocol.FeatureLook`."""
        indices = list(indices)
        levels = self._level_of(indices) if self._layer in ("level", "all") else [self._layer] * len(indices)
        strides = _strides(self._model)
        for index, level in zip(indices, levels, strict=True):
            names = list(dict.fromkeys([level, *self._below]))
            layers = [self._kept[name] for name in names]
            found = [self._gradients(index, number, layers) for number in numbers]
            yield [
                Feature(name, tensor.detach()[0], torch.cat(gradients), strides[name])
                for name, tensor, gradients in zip(names, layers, zip(*found, strict=True), strict=True)
            ]

    def _gradients(self, index: int, number: int, layers: list[Tensor]) -> tuple[Tensor, ...]:
        with torch.inference_mode(False), torch.enable_grad():  # picking the output is part of the graph
            output = self._numbers.number(index, number)
        if not output.requires_grad:  # of a layer that no candidate is predicted from
            return tuple(torch.zeros_like(layer) for layer in layers)
        return torch.autograd.grad(output, layers, retain_graph=True, allow_unused=True, materialize_grads=True)

    def _level_of(self, indices: list[int]) -> list[str]:
        """Return the name of the level that each candidate is predicted from."""
        model: Any = self._model
        if isinstance(model, RetinaNet):
            cells = (self._kept[name][0, 0].numel() for name in self._levels)
            ends = torch.tensor(list(accumulate(map(int.__mul__, cells, model.anchor_generator.num_cell_anchors))))
            positions = torch.bucketize(self._candidates.rows[indices].cpu(), ends, right=True)
        elif len(self._levels) == 1:
            positions = torch.zeros(len(indices), dtype=torch.int64)
        else:
            pooler = model.roi_heads.box_pooler
            rule = pooler.min_level, pooler.max_level, pooler.canonical_box_size, pooler.canonical_level
            positions = assign_boxes_to_levels([Boxes(self._candidates.regions[indices])], *rule)
        return [self._levels[position] for position in positions.tolist()]


def layer_names(model: nn.Module) -> tuple[str, ...]:
    """Return the layers there are: levels that the head is given, stages of the network below, the input.

    The head of Faster R-CNN may be given fewer levels than the pyramid has. Stages are known of a ResNet.
    """
    return tuple(dict.fromkeys([*head_features(model), *_stages(model), _INPUT]))


def _resnet(model: nn.Module) -> Any:
    backbone = model.get_submodule("backbone")
    return getattr(backbone, "bottom_up", backbone)


def _stages(model: nn.Module) -> dict[str, nn.Module]:
    """Return the stages of the ResNet, the lowest first, without those that the head is given directly."""
    resnet, levels = _resnet(model), head_features(model)
    names = [name for name in getattr(resnet, "stage_names", ()) if name not in levels]
    return {name: resnet.get_submodule(name) for name in names}


def _strides(model: nn.Module) -> dict[str, int]:
    """Return the pixels of a cell of each layer."""
    resnet, stages = _resnet(model), _stages(model)
    strides, stride = {_INPUT: 1}, int(getattr(getattr(resnet, "stem", None), "stride", 1))
    for name in getattr(resnet, "stage_names", ()):
        stride *= math.prod(int(block.stride) for block in resnet.get_submodule(name))
        if name in stages:
            strides[name] = stride
    backbone: Any = model.get_submodule("backbone")
    return strides | {name: int(shape.stride) for name, shape in backbone.output_shape().items()}
