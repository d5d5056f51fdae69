"""RetinaNet's head, recomputed only around the cells that a detection came from."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from odsg_lightning.detectors.detectron2_names import Conv2d, FrozenBatchNorm2d, RetinaNetHead
from odsg_lightning.detectors.engine.backbone import in_quick_layout, vjp_each
from odsg_lightning.detectors.engine.jacobian import Jacobian
from odsg_lightning.detectors.engine.recompute import check_recomputed, flattened
from odsg_lightning.detectors.engine.window import UnsupportedModelError, Window

_SUBNETS = {"cls_subnet", "bbox_subnet", "cls_score", "bbox_pred"}
_SLACK = 1e-4
"""Of probability: rows a little below the threshold stay, so that rounding decides nothing."""
_CELLWISE = (nn.Identity, nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, FrozenBatchNorm2d)


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
        self.features: list[Tensor] = []
        self.leaves: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._rows: list[Tensor] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the head's next forward pass, and let autograd start again behind it."""
        calls = [0, 0]

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
        self.features, self._outputs = list(args[0]), [_kept(output) for output in flattened(outputs)]

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
        levels = len(self.features)
        logits = [by_anchor(output, scores[0].shape[1]) for output in self._outputs[:levels]]
        if len(self._outputs) != 2 * levels or [len(level) for level in logits] != [len(level) for level in anchors]:
            raise UnsupportedModelError("model.head does not return two maps for each feature")
        enough = self._model.test_score_thresh - _SLACK
        self._rows = [(level.amax(dim=1).sigmoid() > enough).nonzero().flatten() for level in logits]
        kept = [level[rows] for level, rows in zip(anchors, self._rows, strict=True)]
        chosen = [level[rows] for level, rows in zip(logits, self._rows, strict=True)]
        given = [level[rows] for level, rows in zip(scores, self._rows, strict=True)]
        self.leaves = [level.requires_grad_() for level in chosen]
        self.leaves += [level[rows].requires_grad_() for level, rows in zip(deltas, self._rows, strict=True)]
        with torch.enable_grad():
            copies = [leaf.clone() for leaf in self.leaves]  # Detectron2 takes the sigmoid in place
            as_probabilities = [leaf.sigmoid() for leaf in copies[:levels]]
        if all(map(torch.equal, given, chosen)):
            return kept, copies[:levels], copies[levels:]
        if all(map(torch.allclose, given, as_probabilities)):
            return kept, as_probabilities, copies[levels:]
        raise UnsupportedModelError("what is decoded is not what model.head returned")

    def cotangents(self, jacobian: Jacobian) -> list[Window | None]:
        """Carry a detection's numbers back to the features; see :class:`odsg_lightning.detectors.engine.cut.Head`.

        Raises:
            UnsupportedModelError: the head does not give the same on a part of the features.
        """
        count = len(self.features)
        cells = {i: window for i in range(len(self.leaves)) if (window := self._cells(jacobian, i)) is not None}
        result: list[Window | None] = [None] * count
        if not cells:
            return result
        crops = self._crops(cells)
        inputs = {
            level: in_quick_layout(self.features[level][:, :, top:bottom, left:right].detach().clone()).requires_grad_()
            for level, (top, left, bottom, right) in crops.items()
        }
        outputs = self._run_again(inputs, cells)
        moved = []
        for index, window in cells.items():
            top, left, _, _ = crops[index % count]
            moved.append(Window(window.values, window.top - top, window.left - left))
            recomputed, recorded = outputs[index].detach(), self._outputs[index]
            check_recomputed(_inside(recomputed, moved[-1]), _inside(recorded, window), recorded, "model.head")
        for level, leaf in inputs.items():
            values = vjp_each([outputs[index] for index in cells], leaf, moved, leaf.is_cuda)
            if (values != 0).any():
                result[level] = Window(values, *crops[level][:2])
        return result

    def _cells(self, jacobian: Jacobian, index: int) -> Window | None:
        """Return the derivatives by one output of the head where they are not zero; None if they are so everywhere."""
        places, derivatives = jacobian[index]
        if not places:
            return None
        leaf, output = self.leaves[index], self._outputs[index]
        numbers, channels, width = leaf.shape[1], output.shape[1], output.shape[3]
        per_cell = channels // numbers
        rows = self._rows[index % len(self.features)][places].tolist()
        derivatives = derivatives.to(output)
        positions = [divmod(row // per_cell, width) for row in rows]
        top, left = (min(axis) for axis in zip(*positions, strict=True))
        bottom, right = (max(axis) + 1 for axis in zip(*positions, strict=True))
        values = output.new_zeros(len(derivatives), channels, bottom - top, right - left)
        for place, (row, (y, x)) in enumerate(zip(rows, positions, strict=True)):
            anchor = row % per_cell
            values[:, anchor * numbers : (anchor + 1) * numbers, y - top, x - left] = derivatives[:, place]
        return Window(values, top, left)

    def _run_again(self, inputs: Mapping[int, Tensor], indices: Iterable[int]) -> Mapping[int, Tensor]:
        """Return outputs of the head by their index, with a graph."""
        if self._radius is None:
            return dict(enumerate(flattened(self._head(list(inputs.values())))))
        head, count = self._head, len(self.features)
        # What RetinaNetHead.forward() does at each level, and receptive_radius() has seen that it does nothing else.
        return {
            index: head.cls_score(head.cls_subnet(inputs[index % count]))
            if index < count
            else head.bbox_pred(head.bbox_subnet(inputs[index % count]))
            for index in indices
        }

    def _crops(self, cells: Mapping[int, Window]) -> dict[int, tuple[int, int, int, int]]:
        """Return the rectangle (top, left, bottom, right) of each feature that is needed to recompute the head."""
        sizes = [(int(feature.shape[2]), int(feature.shape[3])) for feature in self.features]
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
        self.leaves = []
        handle = self._head.register_forward_hook(lambda module, args, outputs: self._record(args, outputs))
        try:
            yield
        finally:
            handle.remove()
        if not self.leaves:
            raise UnsupportedModelError("model.head was not called")

    def outputs(self) -> tuple[Tensor, Tensor]:
        """Return logits ``[K, classes]`` and deltas ``[K, 4]`` of the chosen anchors, where autograd starts again."""
        levels, classes = len(self.features), self._model.num_classes
        numbers = [classes] * levels + [4] * levels
        flat = [by_anchor(output, count) for output, count in zip(self._outputs, numbers, strict=True)]
        ends = torch.tensor([len(level) for level in flat[:levels]]).cumsum(0)
        unique, position = torch.unique(self._chosen.cpu(), return_inverse=True)
        level_of = torch.bucketize(unique, ends, right=True)
        first = torch.cat([ends.new_zeros(1), ends[:-1]])
        self._rows = [unique[level_of == level] - first[level] for level in range(levels)]
        self.leaves = [
            output[self._rows[index % levels].to(output.device)].requires_grad_() for index, output in enumerate(flat)
        ]
        torch.set_grad_enabled(True)
        logits, deltas = torch.cat(self.leaves[:levels]), torch.cat(self.leaves[levels:])
        position = position.to(logits.device)
        return logits[position], deltas[position]


def receptive_radius(head: nn.Module) -> int | None:
    """Return how many cells away the head's outputs see, at most; None for a head that is not known to be local.

    Known are convolutions that keep the size, activations, and normalisation by constants.
    """
    parts = dict(head.named_children())
    if type(head).forward is not RetinaNetHead.forward or "forward" in vars(head) or set(parts) != _SUBNETS:
        return None
    radii = {name: _radius(part) for name, part in parts.items()}
    known = {name: radius for name, radius in radii.items() if radius is not None}
    if len(known) < len(radii):
        return None
    return max(known["cls_subnet"] + known["cls_score"], known["bbox_subnet"] + known["bbox_pred"])


def _radius(module: nn.Module | None) -> int | None:
    """Return the radius of one layer or of a sequence of layers; None if it is not known."""
    if module is None or type(module) in _CELLWISE:
        return 0
    if type(module) is nn.BatchNorm2d:
        return 0 if module.track_running_stats and not module.training else None
    if type(module) is nn.Sequential:
        return _sum(_radius(part) for part in module)
    if type(module) not in (nn.Conv2d, Conv2d) or not isinstance(module, nn.Conv2d):
        return None
    reach = {(kernel - 1) * step // 2 for kernel, step in zip(module.kernel_size, module.dilation, strict=True)}
    if (
        len(reach) > 1
        or module.padding != (max(reach),) * 2
        or any(kernel % 2 == 0 for kernel in module.kernel_size)
        or module.stride != (1, 1)
        or module.padding_mode != "zeros"
    ):
        return None
    return _sum([max(reach), *(_radius(getattr(module, name, None)) for name in ("norm", "activation"))])


def _sum(radii: Iterable[int | None]) -> int | None:
    known = list(radii)
    return None if None in known else sum(radius or 0 for radius in known)


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
