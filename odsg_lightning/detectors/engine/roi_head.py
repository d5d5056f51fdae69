"""Faster R-CNN's box head, recomputed only for the proposals that a detection came from."""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from odsg_lightning.detectors.detectron2_names import Boxes, ROIAlign
from odsg_lightning.detectors.engine.jacobian import Jacobian, RowDerivatives
from odsg_lightning.detectors.engine.recompute import check_recomputed, flattened, leaves_in_place_of
from odsg_lightning.detectors.engine.window import UnsupportedModelError, Window
from odsg_lightning.names import PARAMETERS

_MARGIN = 2
"""Cells of the coarsest feature around the RoIs: RoIAlign reads less than two cells beyond a box at every level, and
clamps at the border of the map, so the border of a crop must be farther away or be the map's own."""


@dataclass
class RoiRecord:
    """One forward pass of the head.

    Attributes:
        features: what it was given, one map for each level.
        proposals: ``[R, 4]``, pixels of the padded image.
        leaves: its outputs, each ``[R, n]``, where autograd started again.
    """

    features: list[Tensor]
    proposals: Tensor
    leaves: list[Tensor]


class RoiHead:
    """A head that predicts for each proposal: pooler, box head, predictor.

    Args:
        roi_heads: Detectron2's ``StandardROIHeads`` (``box_pooler``, ``box_head``) or ``Res5ROIHeads`` (``pooler``,
            ``res5`` and the mean over its cells), with one ``box_predictor``.
    """

    is_local = False
    """It sees the proposals of one image, which are not known before the image is run."""

    def __init__(self, roi_heads: nn.Module) -> None:
        """See the class for the arguments."""
        self._standard = hasattr(roi_heads, "box_pooler")
        self._pooler = roi_heads.get_submodule("box_pooler" if self._standard else "pooler")
        self._body = roi_heads.get_submodule("box_head" if self._standard else "res5")
        self._predictor = roi_heads.get_submodule("box_predictor")
        self.records: list[RoiRecord] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the head's next forward pass, and let autograd start again behind it."""
        pooled: list[tuple[Any, ...]] = []
        leaves: list[Tensor] = []
        calls = 0

        def before_pooler(module: nn.Module, args: tuple[Any, ...]) -> None:
            if calls == 0:  # later calls serve the mask head
                pooled.append(args)

        def after_predictor(module: nn.Module, args: tuple[Any, ...], outputs: Any) -> Any:
            nonlocal calls
            calls += 1
            leaves.clear()
            outputs = leaves_in_place_of(outputs, leaves)
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
        record = RoiRecord(list(pooled[0][0]), pooled[0][1][0].tensor.detach(), leaves)
        if any(leaf.ndim != 2 or len(leaf) != len(record.proposals) for leaf in leaves):
            raise UnsupportedModelError("the box predictor does not return one row for each proposal")
        self.records.append(record)

    def cotangents(self, jacobians: Mapping[int, Jacobian]) -> list[Window | None]:
        """Carry a detection's numbers back to the features; see :class:`odsg_lightning.detectors.engine.head.Head`.

        Raises:
            UnsupportedModelError: the head does not give the same for these proposals on a part of the features.
        """
        images = tuple(jacobians)
        records = [self.records[image] for image in images]
        rows = [sorted({row for one in jacobian for row in one.rows}) for jacobian in jacobians.values()]
        result: list[Window | None] = [None] * len(records[0].features)
        if not any(rows):
            return result
        proposals = [record.proposals[of_image] for record, of_image in zip(records, rows, strict=True)]
        crops, (top, left) = self._crops(records[0].features, torch.cat(proposals))
        numbers = len(PARAMETERS)
        # The same crop once for each number: as a batch of images, one backward pass gives all five.
        inputs = []
        for level, (y, x, height, width) in enumerate(crops):
            crop = torch.cat([record.features[level][:, :, y : y + height, x : x + width] for record in records])
            inputs.append(crop.detach().repeat_interleave(numbers, dim=0).requires_grad_())
        origin = proposals[0].new_tensor([left, top, left, top])
        boxes = [Boxes(of_image - origin) for of_image in proposals for _ in range(numbers)]
        outputs = flattened(self._predict(inputs, boxes))
        cotangents = []
        for index, output in enumerate(outputs):
            leaves = [record.leaves[index].detach() for record in records]
            expected = [leaf[of_image].repeat(numbers, 1) for leaf, of_image in zip(leaves, rows, strict=True)]
            check_recomputed(output.detach(), torch.cat(expected), torch.cat(leaves), "the box head")
            derivatives = [jacobian[index] for jacobian in jacobians.values()]
            cotangents.append(torch.cat(list(map(_at_rows, derivatives, rows))).to(output))
        gradients = torch.autograd.grad(outputs, inputs, cotangents, allow_unused=True)
        for level, (gradient, (y, x, _, _)) in enumerate(zip(gradients, crops, strict=True)):
            if gradient is not None and (gradient != 0).any():
                result[level] = Window(gradient, y, x, images).trimmed()
        return result

    def _predict(self, features: list[Tensor], boxes: list[Boxes]) -> Any:
        regions = self._body(self._pooler(features, boxes))
        return self._predictor(regions if self._standard else regions.mean(dim=[2, 3]))

    def _crops(self, features: list[Tensor], boxes: Tensor) -> tuple[list[tuple[int, int, int, int]], tuple[int, int]]:
        """Return the block (top, left, height, width) of each feature that the boxes need, and its origin in pixels.

        The origin is a multiple of every stride: boxes moved by it lie on the crops as they lie on the features, and
        have the size by which the pooler assigns levels.
        """
        poolers: list[Any] = list(self._pooler.get_submodule("level_poolers").children())
        strides = [1 / pooler.spatial_scale for pooler in poolers]
        if any(type(pooler) is not ROIAlign for pooler in poolers) or any(
            not stride.is_integer() for stride in strides
        ):
            return [(0, 0, *feature.shape[2:]) for feature in features], (0, 0)
        step = int(max(strides))
        left, top = ((math.floor(float(value) / step) - _MARGIN) * step for value in boxes[:, :2].amin(dim=0))
        right, bottom = ((math.ceil(float(value) / step) + _MARGIN) * step for value in boxes[:, 2:].amax(dim=0))
        top, left = max(0, top), max(0, left)
        crops = []
        for feature, stride in zip(features, map(int, strides), strict=True):
            height, width = (int(size) for size in feature.shape[2:])
            y, x = top // stride, left // stride
            crops.append((y, x, min(height, bottom // stride) - y, min(width, right // stride) - x))
        return crops, (top, left)


def _at_rows(derivatives: RowDerivatives, rows: list[int]) -> Tensor:
    """Return derivatives at some rows, for one number after the other, ``[5 * rows, n]``."""
    values = derivatives.values
    result = values.new_zeros(values.shape[0], len(rows), values.shape[2])
    result[:, [rows.index(row) for row in derivatives.rows]] = values
    return result.flatten(0, 1)
