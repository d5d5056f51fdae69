"""What both kinds of head need: leaves in place of their outputs, and a check that recomputing gives the same.

A detector's graph is cut behind its head. Detectron2's own decoding then starts at leaves, and the graph it leaves
carries each detection to its anchor or proposal by index; nothing is found again by its value.
"""

from typing import Any

import torch
from torch import Tensor

from odsg_lightning.detectors.engine.window import UnsupportedModelError


def leaves_in_place_of(outputs: Any, leaves: list[Tensor]) -> Any:
    """Return the same structure with tensors that start a new graph, and append these leaves to ``leaves``.

    What is returned are copies of the leaves: nobody may write on a leaf in place.

    Raises:
        UnsupportedModelError: the head returns something else than floating tensors in lists and tuples.
    """
    if isinstance(outputs, Tensor) and outputs.is_floating_point():
        leaf = outputs.detach().requires_grad_()
        leaves.append(leaf)
        with torch.enable_grad():
            return leaf.clone()
    if type(outputs) in (list, tuple):
        return type(outputs)(leaves_in_place_of(item, leaves) for item in outputs)
    raise UnsupportedModelError(f"the head returns a {type(outputs).__name__}")


def flattened(outputs: Any) -> list[Tensor]:
    """Return the tensors of a nested structure in the order of :func:`leaves_in_place_of`."""
    return [outputs] if isinstance(outputs, Tensor) else [tensor for item in outputs for tensor in flattened(item)]


def check_recomputed(recomputed: Tensor, recorded: Tensor, scale: Tensor, part: str) -> None:
    """Refuse what was recomputed if it is not what the forward pass gave.

    Args:
        recomputed: outputs of the part that was run again.
        recorded: the same outputs in the forward pass.
        scale: the whole recorded output; its largest magnitude is what a difference is measured by.
        part: name of the part.

    Raises:
        UnsupportedModelError: they differ by more than rounding does.
    """
    # TF32, the default of convolutions on CUDA, rounds at 1e-3, and each algorithm in its own way.
    single = 1e-2 if recomputed.is_cuda else 1e-3
    tolerance = 1e-6 if recomputed.dtype == torch.float64 else single
    difference, largest = float((recomputed - recorded).abs().max()), float(scale.abs().max())
    if not difference <= tolerance * largest:
        raise UnsupportedModelError(
            f"{part}, run again on a part of the features, differs by {difference:.3g} of {largest:.3g}"
        )
