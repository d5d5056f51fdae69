"""How far RetinaNet's head sees: what must be recomputed of it around a cell."""

from collections.abc import Iterable

from torch import nn

from odsg_lightning.detectors.detectron2_names import Conv2d, FrozenBatchNorm2d, RetinaNetHead

_SUBNETS = {"cls_subnet", "bbox_subnet", "cls_score", "bbox_pred"}
_CELLWISE = (nn.Identity, nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, FrozenBatchNorm2d)


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
