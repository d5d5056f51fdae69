"""What each detection's numbers are of a head's outputs: through Detectron2's own decoding, for all detections at once.

Decoding is a hundred small operations, and starting them takes longer than what they do: so not one backward pass for
each number of each detection. A detection comes from one anchor or proposal, a row of the head's outputs. Detections of
different rows share their passes: a first one that weighs numbers and detections differently, by which a row tells
whose it is, and one for each of the five numbers, summed over the detections. Those go only to the outputs that the
first one reached: of a pyramid's levels mostly one.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from odsg_lightning.types import Detections


class RowDerivatives(NamedTuple):
    """The derivatives of a detection's five numbers by one of the head's outputs ``[R, n]``, where they are not zero.

    Attributes:
        rows: which of the R.
        values: ``[5, rows, n]``, on the CPU.
    """

    rows: list[int]
    values: Tensor


Jacobian = Sequence[RowDerivatives]
"""Of one detection, for each of the head's outputs."""

_NUMBER_WEIGHTS = (1.0, 1.31, 1.73, 1.19, 1.57)
"""Of the pass that tells the detections apart: x_min and x_max must not cancel in it."""
_LEAST_SPACING = 1e-2
"""Of the detections' weights; they are told apart by a hundredth of it."""


def jacobians(outputs: Detections, leaves: Sequence[Tensor], indices: Sequence[int]) -> Iterator[Jacobian]:
    """Yield the derivatives of each chosen detection, in order.

    Args:
        outputs: detections with a graph down to the leaves.
        leaves: the head's outputs, each ``[R, n]``.
        indices: of detections.
    """
    if not indices:
        return
    weights = _weights(len(indices))
    weighed = _weighed(outputs, leaves, indices, weights)
    # No weighed sum of all numbers is zero throughout unless all of them are.
    reached = [bool((gradient != 0).any()) for gradient in weighed]
    if len(indices) > 1:
        sums = _derivatives(outputs, leaves, reached, indices)
        owners = [owner for pair in zip(sums, weighed, strict=True) if (owner := _owners(*pair, weights)) is not None]
        if len(owners) == len(leaves):
            for number in range(len(indices)):
                yield [
                    _of_rows(leaf, [row for row, detection in owner.items() if detection == number])
                    for leaf, owner in zip(sums, owners, strict=True)
                ]
            return
    for index in indices:  # some come from the same row
        yield [_of_rows(leaf, _occupied(leaf).tolist()) for leaf in _derivatives(outputs, leaves, reached, [index])]


def _derivatives(
    outputs: Detections, leaves: Sequence[Tensor], reached: Sequence[bool], indices: Sequence[int]
) -> list[Tensor]:
    """Return the derivatives of the five numbers, each summed over detections, by each leaf.

    Returns:
        ``[5, R, n]`` of a leaf that is reached, ``[5, 0, n]`` of others.
    """
    chosen = list(indices)
    # Not from one tensor that holds all five: each would send zeros through the decoding of the others, too.
    numbers = [outputs.boxes[chosen, side].sum() for side in range(4)] + [outputs.scores[chosen].sum()]
    some = [leaf for leaf, is_reached in zip(leaves, reached, strict=True) if is_reached]
    of_some = iter(zip(*(_gradients(number, some) for number in numbers), strict=True))
    nothing = (len(numbers), 0)
    return [
        torch.stack(next(of_some)).cpu() if is_reached else torch.zeros(*nothing, leaf.shape[1], dtype=leaf.dtype)
        for leaf, is_reached in zip(leaves, reached, strict=True)
    ]


def _weighed(outputs: Detections, leaves: Sequence[Tensor], indices: Sequence[int], weights: Tensor) -> list[Tensor]:
    """Return the derivatives ``[R, n]`` of the sum over numbers and detections, both weighed."""
    chosen, of_detections = list(indices), weights.to(outputs.boxes)
    of_numbers = outputs.boxes.new_tensor(_NUMBER_WEIGHTS)
    boxes = (outputs.boxes[chosen] * of_detections[:, None] * of_numbers[:4]).sum()
    total = boxes + (outputs.scores[chosen] * of_detections.to(outputs.scores)).sum() * _NUMBER_WEIGHTS[4]
    return [gradient.cpu() for gradient in _gradients(total, leaves)]


def _gradients(number: Tensor, leaves: Sequence[Tensor]) -> Sequence[Tensor]:
    if not (number.requires_grad and leaves):
        return [torch.zeros_like(leaf) for leaf in leaves]
    return torch.autograd.grad(number, leaves, retain_graph=True, materialize_grads=True)


def _weights(count: int) -> Tensor:
    """Return a weight between 1 and 2 for each detection; no mean of some of them is one of the others, about."""
    generator = torch.Generator().manual_seed(0)
    places = max(count, round(1 / _LEAST_SPACING))
    steps = torch.randperm(places, generator=generator)[:count]
    jitter = torch.rand(count, generator=generator, dtype=torch.float64)
    return 1 + (steps + 0.5 * jitter) / places


def _owners(sums: Tensor, weighed: Tensor, weights: Tensor) -> dict[int, int] | None:
    """Return which detection each row belongs to that is not zero; None if one may belong to several.

    Args:
        sums: ``[5, R, n]``.
        weighed: ``[R, n]``.
        weights: of the detections, ``[K]``.
    """
    occupied = _occupied(sums)
    if not len(occupied):
        return {}
    plain = torch.einsum("prn,p->rn", sums[:, occupied].double(), torch.tensor(_NUMBER_WEIGHTS).double())
    found = weighed[occupied].double()
    ratio = (plain * found).sum(dim=1) / plain.square().sum(dim=1)
    nearest = (ratio[:, None] - weights).abs().argmin(dim=1)
    difference = (found - weights[nearest, None] * plain).abs().amax(dim=1)
    if not bool((difference <= 1e-2 * _LEAST_SPACING * plain.abs().amax(dim=1)).all()):  # NaN is not
        return None
    return dict(zip(occupied.tolist(), nearest.tolist(), strict=True))


def _occupied(derivatives: Tensor) -> Tensor:
    """Return the rows of ``[5, R, n]`` that are not zero throughout."""
    return (derivatives != 0).any(dim=2).any(dim=0).nonzero().flatten()


def _of_rows(derivatives: Tensor, rows: list[int]) -> RowDerivatives:
    return RowDerivatives(rows, derivatives[:, rows])
