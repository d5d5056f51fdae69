"""RetinaNet's head, recomputed only around the cells that a detection came from."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from odsg_lightning.detectors.engine.backbone import in_quick_layout, vjp_each
from odsg_lightning.detectors.engine.jacobian import Jacobian
from odsg_lightning.detectors.engine.receptive_field import receptive_radius
from odsg_lightning.detectors.engine.recompute import check_recomputed, flattened
from odsg_lightning.detectors.engine.window import UnsupportedModelError, Window, stacked

_FEW = 4096
"""Anchors that are decoded on the CPU also where the head is on a GPU, whose hundred small operations wait to start."""
_SLACK = 1e-4
"""Of probability: rows a little below the threshold stay, so that rounding decides nothing."""


@dataclass
class DenseRecord:
    """One forward pass of the head.

    Attributes:
        features: what it was given, one map for each level.
        outputs: what it returned, the maps of logits, then those of deltas.
        rows: which anchors of each level are decoded.
        leaves: the outputs at these anchors, where autograd started again.
    """

    features: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)
    leaves: list[Tensor] = field(default_factory=list)


class DenseHead:
    """RetinaNet's head, which predicts at every cell of every level, and the decoding of what it predicts.

    The head is recomputed on a crop if it is made of convolutions and cell-wise layers, otherwise as a whole.

    Args:
        model: a RetinaNet, with its ``head(features) -> [logits per level], [deltas per level]``.
    """

    def __init__(self, model: nn.Module) -> None:
        """See the class for the arguments."""
        self._model: Any = model
        self._head: Any = model.get_submodule("head")
        self._radius = receptive_radius(self._head)
        self.records: list[DenseRecord] = []

    @property
    def is_local(self) -> bool:
        """Whether it is known that the head does the same at every image, whatever others there are."""
        return self._radius is not None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the head's next forward pass, and let autograd start again behind it."""
        calls = [0, 0]
        self.records.append(DenseRecord())

        def after_head(module: nn.Module, args: tuple[Any, ...], outputs: Any) -> None:
            calls[0] += 1
            self._record(args, outputs)

        decode = self._model.inference_single_image

        def decode_leaves(anchors: list[Any], scores: list[Tensor], deltas: list[Tensor], *size: Any) -> Any:
            calls[1] += 1
            kept, scores, deltas = self._start_again(anchors, scores, deltas)
            torch.set_grad_enabled(True)
            return decode(kept, scores, deltas, *size)

        handle = self._head.register_forward_hook(after_head)
        self._model.inference_single_image = decode_leaves
        try:
            yield
        finally:
            handle.remove()
            del self._model.inference_single_image
        if calls != [1, 1]:
            raise UnsupportedModelError(f"model.head was called {calls[0]} times and the decoding {calls[1]} times")

    def _record(self, args: tuple[Any, ...], outputs: Any) -> None:
        if len(args) != 1 or not all(isinstance(feature, Tensor) for feature in args[0]):
            raise UnsupportedModelError("model.head is not called with one list of features")
        record = self.records[-1]
        record.features, record.outputs = list(args[0]), [_kept(output) for output in flattened(outputs)]

    def _start_again(
        self, anchors: list[Any], scores: list[Tensor], deltas: list[Tensor]
    ) -> tuple[list[Any], list[Tensor], list[Tensor]]:
        """Return what is to be decoded as copies of leaves, without the anchors that Detectron2 drops at once.

        Of 200,000 anchors a few hundred score above the threshold: the graph of the others would cost as much as a
        layer of the head. The order of those that stay, and with it each tie, is kept.

        Args:
            anchors: of each level, ``[R, 4]``.
            scores: of each level, ``[R, classes]``: logits in Detectron2 0.5, probabilities from 0.6 on.
            deltas: of each level, ``[R, 4]``.
        """
        record = self.records[-1]
        levels = len(record.features)
        logits = [by_anchor(output, scores[0].shape[1]) for output in record.outputs[:levels]]
        if len(record.outputs) != 2 * levels or [len(level) for level in logits] != [len(level) for level in anchors]:
            raise UnsupportedModelError("model.head does not return two maps for each feature")
        enough = self._model.test_score_thresh - _SLACK
        record.rows = rows = [(level.amax(dim=1).sigmoid() > enough).nonzero().flatten() for level in logits]
        # Non-maximum suppression of boxes in double precision is for a GPU alone.
        few = sum(map(len, rows)) <= _FEW and logits[0].dtype == torch.float32
        device = torch.device("cpu") if few else logits[0].device
        kept = [level[of_level].to(device) for level, of_level in zip(anchors, rows, strict=True)]
        chosen, given, of_deltas = (
            [level[of_level].to(device) for level, of_level in zip(kind, rows, strict=True)]
            for kind in (logits, scores, deltas)
        )
        record.leaves = [level.requires_grad_() for level in (*chosen, *of_deltas)]
        with torch.enable_grad():
            copies = [leaf.clone() for leaf in record.leaves]  # Detectron2 takes the sigmoid in place
            as_probabilities = [leaf.sigmoid() for leaf in copies[:levels]]
        if all(map(torch.equal, given, chosen)):
            return kept, copies[:levels], copies[levels:]
        if all(map(torch.allclose, given, as_probabilities)):
            return kept, as_probabilities, copies[levels:]
        raise UnsupportedModelError("what is decoded is not what model.head returned")

    def cotangents(self, jacobians: Mapping[int, Jacobian]) -> list[Window | None]:
        """Carry a detection's numbers back to the features; see :class:`odsg_lightning.detectors.engine.head.Head`.

        Raises:
            UnsupportedModelError: the head does not give the same on a part of the features.
        """
        images = tuple(jacobians)
        records = [self.records[image] for image in images]
        count = len(records[0].features)
        cells = {}
        for index in range(2 * count):
            of_images = [_cells(*pair, index) for pair in zip(records, jacobians.values(), strict=True)]
            if (window := stacked(of_images, images)) is not None:
                cells[index] = window
        result: list[Window | None] = [None] * count
        if not cells:
            return result
        crops = self._crops(cells)
        inputs = {}
        for level, (top, left, bottom, right) in crops.items():
            crop = torch.cat([record.features[level][:, :, top:bottom, left:right] for record in records])
            inputs[level] = in_quick_layout(crop.detach()).requires_grad_()
        outputs = self._run_again(inputs, cells)
        moved = []
        for index, window in cells.items():
            top, left, _, _ = crops[index % count]
            moved.append(Window(window.values, window.top - top, window.left - left))
            recorded = torch.cat([_inside(record.outputs[index], window) for record in records])
            whole = records[0].outputs[index]
            check_recomputed(_inside(outputs[index].detach(), moved[-1]), recorded, whole, "model.head")
        for level, leaf in inputs.items():
            values = vjp_each([outputs[index] for index in cells], leaf, moved, leaf.is_cuda)
            if (values != 0).any():
                result[level] = Window(values, *crops[level][:2], images)
        return result

    def _run_again(self, inputs: Mapping[int, Tensor], indices: Iterable[int]) -> Mapping[int, Tensor]:
        """Return outputs of the head by their index, with a graph."""
        if self._radius is None:
            return dict(enumerate(flattened(self._head(list(inputs.values())))))
        head, count = self._head, len(self.records[0].features)
        # What RetinaNetHead.forward() does at each level, and receptive_radius() has seen that it does nothing else.
        return {
            index: head.cls_score(head.cls_subnet(inputs[index % count]))
            if index < count
            else head.bbox_pred(head.bbox_subnet(inputs[index % count]))
            for index in indices
        }

    def _crops(self, cells: Mapping[int, Window]) -> dict[int, tuple[int, int, int, int]]:
        """Return the rectangle (top, left, bottom, right) of each feature that is needed to recompute the head."""
        sizes = [(int(feature.shape[2]), int(feature.shape[3])) for feature in self.records[0].features]
        if self._radius is None:
            return {level: (0, 0, height, width) for level, (height, width) in enumerate(sizes)}
        crops = {}
        for level in sorted({index % len(sizes) for index in cells}):
            windows = [window for index, window in cells.items() if index % len(sizes) == level]
            top, left = (min(getattr(w, side) for w in windows) - self._radius for side in ("top", "left"))
            bottom, right = (max(getattr(w, side) for w in windows) + self._radius for side in ("bottom", "right"))
            height, width = sizes[level]
            crops[level] = (max(0, top), max(0, left), min(height, bottom), min(width, right))
        return crops


class ChosenAnchors(DenseHead):
    """RetinaNet's head at anchors that are known beforehand, whatever they score; nothing is decoded.

    Args:
        model: a RetinaNet.
        rows: index of each anchor among those of all levels.
    """

    def __init__(self, model: nn.Module, rows: Tensor) -> None:
        """See the class for the arguments."""
        super().__init__(model)
        self._chosen = rows

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the head's next forward pass; :meth:`outputs` is to be called inside."""
        self.records.append(DenseRecord())
        handle = self._head.register_forward_hook(lambda module, args, outputs: self._record(args, outputs))
        try:
            yield
        finally:
            handle.remove()
        if not self.records[-1].leaves:
            raise UnsupportedModelError("model.head was not called")

    def outputs(self) -> tuple[Tensor, Tensor]:
        """Return logits ``[K, classes]`` and deltas ``[K, 4]`` of the chosen anchors, where autograd starts again."""
        record, classes = self.records[-1], self._model.num_classes
        levels = len(record.features)
        numbers = [classes] * levels + [4] * levels
        flat = [by_anchor(output, count) for output, count in zip(record.outputs, numbers, strict=True)]
        ends = torch.tensor([len(level) for level in flat[:levels]]).cumsum(0)
        unique, position = torch.unique(self._chosen.cpu(), return_inverse=True)
        level_of = torch.bucketize(unique, ends, right=True)
        first = torch.cat([ends.new_zeros(1), ends[:-1]])
        record.rows = [unique[level_of == level] - first[level] for level in range(levels)]
        record.leaves = [
            output[record.rows[index % levels].to(output.device)].requires_grad_() for index, output in enumerate(flat)
        ]
        torch.set_grad_enabled(True)
        logits, deltas = torch.cat(record.leaves[:levels]), torch.cat(record.leaves[levels:])
        position = position.to(logits.device)
        return logits[position], deltas[position]


def _cells(record: DenseRecord, jacobian: Jacobian, index: int) -> Window | None:
    """Return the derivatives by one output of the head where they are not zero; None if they are so everywhere."""
    places, derivatives = jacobian[index]
    if not places:
        return None
    leaf, output = record.leaves[index], record.outputs[index]
    numbers, channels, width = leaf.shape[1], output.shape[1], output.shape[3]
    per_cell = channels // numbers
    rows = record.rows[index % len(record.features)].cpu()[places].tolist()
    positions = [divmod(row // per_cell, width) for row in rows]
    top, left = (min(axis) for axis in zip(*positions, strict=True))
    bottom, right = (max(axis) + 1 for axis in zip(*positions, strict=True))
    values = derivatives.new_zeros(len(derivatives), channels, bottom - top, right - left)
    for place, (row, (y, x)) in enumerate(zip(rows, positions, strict=True)):
        anchor = row % per_cell
        values[:, anchor * numbers : (anchor + 1) * numbers, y - top, x - left] = derivatives[:, place]
    return Window(values.to(output), top, left)


def _kept(output: Tensor) -> Tensor:
    """Return a map without its graph; as a copy where Detectron2's reordering is a view, which it then writes on."""
    reordered = output.ndim == 4 and output.is_contiguous() and output.shape[1] > 1 and output[0, 0].numel() > 1
    return output.detach() if reordered else output.detach().clone()


def by_anchor(output: Tensor, numbers: int) -> Tensor:
    """Return a map ``[1, anchors * numbers, H, W]`` as ``[H * W * anchors, numbers]``, in the order of the anchors."""
    if output.ndim != 4 or output.shape[0] != 1 or output.shape[1] % numbers:
        raise UnsupportedModelError("model.head does not return two maps for each feature")
    _, channels, height, width = output.shape
    return output.reshape(channels // numbers, numbers, height, width).permute(2, 3, 0, 1).reshape(-1, numbers)


def _inside(outputs: Tensor, window: Window) -> Tensor:
    return outputs[:, :, window.top : window.bottom, window.left : window.right]
