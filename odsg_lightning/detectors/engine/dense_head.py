"""RetinaNet's head, redone only around the cells that a detection came from."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from odsg_lightning.detectors.detectron2_import import require_detectron2
from odsg_lightning.detectors.engine.backbone import vjp_each
from odsg_lightning.detectors.engine.redo import Jacobian, check_redone, flattened, leaves_in_place_of
from odsg_lightning.detectors.engine.window import Unsupported, Window

require_detectron2()

from detectron2.layers import Conv2d, FrozenBatchNorm2d  # noqa: E402
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead  # noqa: E402

_SUBNETS = {"cls_subnet", "bbox_subnet", "cls_score", "bbox_pred"}
_CELLWISE = (nn.Identity, nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, FrozenBatchNorm2d)


class DenseHead:
    """A head that predicts at every cell of every level: ``head(features) -> [tensor per level], [tensor per level]``.

    Args:
        head: called with the list of features. One that is made of convolutions and cell-wise layers is redone on a
            crop, any other as a whole.
    """

    def __init__(self, head: nn.Module) -> None:
        """See the class for the arguments."""
        self._head = head
        self._radius = receptive_radius(head)
        self.features: list[Tensor] = []
        self.leaves: list[Tensor] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the head's next forward pass, and let autograd start anew behind it."""
        calls = 0

        def hook(module: nn.Module, args: tuple[Any, ...], outputs: Any) -> Any:  # noqa: ANN401 - as Detectron2 has it
            nonlocal calls
            calls += 1
            if len(args) != 1 or not all(isinstance(feature, Tensor) for feature in args[0]):
                raise Unsupported("model.head is not called with one list of features")
            self.features, self.leaves = list(args[0]), []
            outputs = leaves_in_place_of(outputs, self.leaves)
            torch.set_grad_enabled(True)
            return outputs

        handle = self._head.register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()
        if calls != 1:
            raise Unsupported(f"model.head was called {calls} times")
        if any(leaf.ndim != 4 for leaf in self.leaves) or len(self.leaves) != 2 * len(self.features):
            raise Unsupported("model.head does not return two maps for each feature")

    def cotangents(self, jacobian: Jacobian) -> list[Window | None]:
        """Carry a detection's numbers back to the features; see :class:`odsg_lightning.detectors.engine.cut.Head`.

        Raises:
            Unsupported: the head does not give the same on a part of the features.
        """
        count = len(self.features)
        cells = {index: window for index in range(len(self.leaves)) if (window := _cells(jacobian, index)) is not None}
        result: list[Window | None] = [None] * count
        if not cells:
            return result
        crops = self._crops(cells)
        inputs = [
            feature[:, :, top:bottom, left:right].detach().clone().requires_grad_()
            for feature, (top, left, bottom, right) in zip(self.features, crops, strict=True)
        ]
        outputs = flattened(self._head(inputs))
        moved = []
        for index, window in cells.items():
            top, left, _, _ = crops[index % count]
            moved.append(Window(window.values, window.top - top, window.left - left))
            redone, recorded = outputs[index].detach(), self.leaves[index].detach()
            check_redone(_inside(redone, moved[-1]), _inside(recorded, window), recorded, "model.head")
        levels = range(count) if self._radius is None else sorted({index % count for index in cells})
        for level in levels:
            values = vjp_each([outputs[index] for index in cells], inputs[level], moved, inputs[level].is_cuda)
            if (values != 0).any():
                result[level] = Window(values, *crops[level][:2])
        return result

    def _crops(self, cells: Mapping[int, Window]) -> list[tuple[int, int, int, int]]:
        """Return the rectangle (top, left, bottom, right) of each feature that the redo needs."""
        sizes = [(int(feature.shape[2]), int(feature.shape[3])) for feature in self.features]
        if self._radius is None:
            return [(0, 0, height, width) for height, width in sizes]
        crops = []
        for level, (height, width) in enumerate(sizes):
            windows = [window for index, window in cells.items() if index % len(sizes) == level]
            if windows:
                top, left = (min(getattr(w, side) for w in windows) - self._radius for side in ("top", "left"))
                bottom, right = (max(getattr(w, side) for w in windows) + self._radius for side in ("bottom", "right"))
                crops.append((max(0, top), max(0, left), min(height, bottom), min(width, right)))
            else:
                crops.append((0, 0, 1, 1))  # the head wants a map for each level, whether it matters or not
        return crops


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


def _cells(jacobian: Jacobian, index: int) -> Window | None:
    """Return the derivatives by one leaf ``[1, C, H, W]`` where they are not zero; None if they are zero everywhere."""
    rows = [derivatives[index] for derivatives in jacobian]
    present = [row for row in rows if row is not None]
    occupied = [(row[0] != 0).any(dim=0).nonzero() for row in present]
    if not occupied or not (places := torch.cat(occupied)).numel():
        return None
    (top, left), (bottom, right) = places.amin(dim=0).tolist(), (places.amax(dim=0) + 1).tolist()
    zero = torch.zeros_like(present[0][0, :, top:bottom, left:right])
    return Window(torch.stack([zero if row is None else row[0, :, top:bottom, left:right] for row in rows]), top, left)


def _inside(outputs: Tensor, window: Window) -> Tensor:
    return outputs[:, :, window.top : window.bottom, window.left : window.right]
