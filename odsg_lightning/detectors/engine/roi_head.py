"""Faster R-CNN's box head, recomputed only for the proposals that a detection came from."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from odsg_lightning.detectors.detectron2_names import Boxes, ROIAlign
from odsg_lightning.detectors.engine.jacobian import Jacobian
from odsg_lightning.detectors.engine.recompute import check_recomputed, flattened, leaves_in_place_of
from odsg_lightning.detectors.engine.window import UnsupportedModelError, Window
from odsg_lightning.names import PARAMETERS

_MARGIN = 2
"""Cells of the coarsest feature around the RoIs: RoIAlign reads less than two cells beyond a box at every level, and
clamps at the border of the map, so the border of a crop must be farther away or be the map's own."""


class RoiHead:
    """A head that predicts for each proposal: pooler, box head, predictor.

    Args:
        roi_heads: Detectron2's ``StandardROIHeads`` (``box_pooler``, ``box_head``) or ``Res5ROIHeads`` (``pooler``,
            ``res5`` and the mean over its cells), with one ``box_predictor``.
    """

    def __init__(self, roi_heads: nn.Module) -> None:
        """See the class for the arguments."""
        self._standard = hasattr(roi_heads, "box_pooler")
        self._pooler = roi_heads.get_submodule("box_pooler" if self._standard else "pooler")
        self._body = roi_heads.get_submodule("box_head" if self._standard else "res5")
        self._predictor = roi_heads.get_submodule("box_predictor")
        self._proposals: Tensor = torch.empty(0, 4)
        self.features: list[Tensor] = []
        self.leaves: list[Tensor] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the head's next forward pass, and let autograd start again behind it."""
        pooled: list[tuple[Any, ...]] = []
        calls = 0

        def before_pooler(module: nn.Module, args: tuple[Any, ...]) -> None:
            if calls == 0:  # later calls serve the mask head
                pooled.append(args)

        def after_predictor(module: nn.Module, args: tuple[Any, ...], outputs: Any) -> Any:
            nonlocal calls
            calls += 1
            self.leaves = []
            outputs = leaves_in_place_of(outputs, self.leaves)
            torch.set_grad_enabled(True)
            return outputs

        with ExitStack() as hooks:
            for handle in (
                self._pooler.register_forward_pre_hook(before_pooler),
                self._predictor.register_forward_hook(after_predictor),
            ):
                hooks.callback(handle.remove)
            yield
        if calls != 1 or len(pooled) != 1:
            raise UnsupportedModelError(
                f"the box pooler was called {len(pooled)} times and the box predictor {calls} times"
            )
        if len(pooled[0]) != 2 or len(pooled[0][1]) != 1 or type(pooled[0][1][0]) is not Boxes:
            raise UnsupportedModelError("the box pooler is not called with features and the boxes of one image")
        self.features = list(pooled[0][0])
        self._proposals = pooled[0][1][0].tensor.detach()
        if any(leaf.ndim != 2 or len(leaf) != len(self._proposals) for leaf in self.leaves):
            raise UnsupportedModelError("the box predictor does not return one row for each proposal")

    def cotangents(self, jacobian: Jacobian) -> list[Window | None]:
        """Carry a detection's numbers back to the features; see :class:`odsg_lightning.detectors.engine.cut.Head`.

        Raises:
            UnsupportedModelError: the head does not give the same for these proposals on a part of the features.
        """
        rows = sorted({row for derivatives in jacobian for row in derivatives.rows})
        result: list[Window | None] = [None] * len(self.features)
        if not rows:
            return result
        crops, (top, left) = self._crops(self._proposals[rows])
        numbers = len(PARAMETERS)
        # The same crop once for each number: as a batch of images, one backward pass gives all five.
        inputs = [
            feature[:, :, y : y + height, x : x + width].detach().repeat(numbers, 1, 1, 1).requires_grad_()
            for feature, (y, x, height, width) in zip(self.features, crops, strict=True)
        ]
        boxes = self._proposals[rows] - self._proposals.new_tensor([left, top, left, top])
        outputs = flattened(self._predict(inputs, [Boxes(boxes) for _ in range(numbers)]))
        cotangents = []
        for output, leaf, derivatives in zip(outputs, self.leaves, jacobian, strict=True):
            recorded = leaf.detach()
            check_recomputed(output.detach(), recorded[rows].repeat(numbers, 1), recorded, "the box head")
            cotangent = torch.zeros(numbers, len(rows), leaf.shape[1], dtype=derivatives.values.dtype)
            cotangent[:, [rows.index(row) for row in derivatives.rows]] = derivatives.values
            cotangents.append(cotangent.flatten(0, 1).to(output))
        gradients = torch.autograd.grad(outputs, inputs, cotangents, allow_unused=True)
        for level, (gradient, (y, x, _, _)) in enumerate(zip(gradients, crops, strict=True)):
            if gradient is not None and (gradient != 0).any():
                result[level] = Window(gradient, y, x).trimmed()
        return result

    def _predict(self, features: list[Tensor], boxes: list[Boxes]) -> Any:
        regions = self._body(self._pooler(features, boxes))
        return self._predictor(regions if self._standard else regions.mean(dim=[2, 3]))

    def _crops(self, boxes: Tensor) -> tuple[list[tuple[int, int, int, int]], tuple[int, int]]:
        """Return the block (top, left, height, width) of each feature that the boxes need, and its origin in pixels.

        The origin is a multiple of every stride: boxes moved by it lie on the crops as they lie on the features, and
        have the size by which the pooler assigns levels.
        """
        poolers: list[Any] = list(self._pooler.get_submodule("level_poolers").children())
        strides = [1 / pooler.spatial_scale for pooler in poolers]
        if any(type(pooler) is not ROIAlign for pooler in poolers) or any(
            not stride.is_integer() for stride in strides
        ):
            return [(0, 0, *feature.shape[2:]) for feature in self.features], (0, 0)
        step = int(max(strides))
        left, top = ((math.floor(float(value) / step) - _MARGIN) * step for value in boxes[:, :2].amin(dim=0))
        right, bottom = ((math.ceil(float(value) / step) + _MARGIN) * step for value in boxes[:, 2:].amax(dim=0))
        top, left = max(0, top), max(0, left)
        crops = []
        for feature, stride in zip(self.features, map(int, strides), strict=True):
            height, width = (int(size) for size in feature.shape[2:])
            y, x = top // stride, left // stride
            crops.append((y, x, min(height, bottom // stride) - y, min(width, right // stride) - x))
        return crops, (top, left)
