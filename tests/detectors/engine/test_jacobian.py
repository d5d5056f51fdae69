"""Detections of different rows share their backward passes, and each gets what a pass of its own gives."""

from unittest.mock import patch

import pytest
import torch

from odsg_lightning.detectors.engine.jacobian import jacobians
from odsg_lightning.types import Detections


def decoded(rows, clip=()):
    """Detections of these rows of 6 boxes and 6 x 3 logits, in two tensors: centre and size, and the last class."""
    generator = torch.Generator().manual_seed(1)
    boxes = torch.rand(6, 4, generator=generator, dtype=torch.float64).requires_grad_()
    logits = torch.randn(6, 3, generator=generator, dtype=torch.float64).requires_grad_()
    centres, sizes = boxes[rows, :2], boxes[rows, 2:].exp()
    corners = torch.cat([centres - sizes / 2, centres + sizes / 2], dim=1)
    for row, side in clip:
        corners = corners.index_put((torch.tensor(row), torch.tensor(side)), torch.zeros((), dtype=torch.float64))
    scores = logits[rows].softmax(dim=1)[:, 2]
    return Detections(corners, scores, torch.zeros(len(rows)).long()), [boxes, logits]


def dense(jacobian, leaves):
    full = [torch.zeros(5, *leaf.shape, dtype=leaf.dtype) for leaf in leaves]
    for into, (rows, values) in zip(full, jacobian, strict=True):
        into[:, rows] = values
    return full


def one_by_one(outputs, leaves, index):
    numbers = [*outputs.boxes[index], outputs.scores[index]]
    each = [torch.autograd.grad(n, leaves, retain_graph=True, materialize_grads=True) for n in numbers]
    return [torch.stack(of_leaf) for of_leaf in zip(*each, strict=True)]


def passes(outputs, leaves, indices):
    """What comes out, checked, and how many backward passes it took."""
    with patch("torch.autograd.grad", wraps=torch.autograd.grad) as grad:
        found = list(jacobians(outputs, leaves, indices))
    assert len(found) == len(indices)
    for index, jacobian in zip(indices, found, strict=True):
        for one, other in zip(dense(jacobian, leaves), one_by_one(outputs, leaves, index), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-15)
    return grad.call_count


def test_detections_of_different_rows_share_six_passes():
    outputs, leaves = decoded([4, 0, 2, 5])
    assert passes(outputs, leaves, [0, 1, 2, 3]) == 6
    assert passes(outputs, leaves, [3, 1]) == 6
    assert passes(outputs, leaves, [2]) == 6
    assert passes(outputs, leaves, []) == 0


@pytest.mark.parametrize("rows", [[4, 0, 4], [1, 1, 1, 0]])
def test_detections_of_the_same_row_have_passes_of_their_own(rows):
    outputs, leaves = decoded(rows)
    indices = list(range(len(rows)))
    assert passes(outputs, leaves, indices) == 6 + 5 * len(rows)
    assert passes(outputs, leaves, [0, 0]) == 16  # also if one is asked for twice


def test_only_the_first_pass_goes_to_outputs_that_no_detection_came_from():
    outputs, [boxes, logits] = decoded([4, 0])
    other_level = torch.rand(9, 4, dtype=torch.float64).requires_grad_()
    scores = torch.cat([outputs.scores, other_level[:, 0]])
    every = Detections(torch.cat([outputs.boxes, other_level]), scores, torch.zeros(11).long())
    for indices in ([1], [0, 1]):
        with patch("torch.autograd.grad", wraps=torch.autograd.grad) as grad:
            found = list(jacobians(every, [boxes, other_level, logits], indices))
        asked = [len(call.args[1]) for call in grad.call_args_list]
        assert asked == [3, 2, 2, 2, 2, 2]
        for _, of_other, _ in found:
            assert of_other.rows == []
            assert of_other.values.shape == (5, 0, 4)
        assert [jacobian[0].rows for jacobian in found] == [[[4, 0][index]] for index in indices]


def test_the_mean_of_two_detections_is_not_taken_for_a_third():
    # Rows 0 and 2 are the same row: its ratio lies between their weights, where that of another may lie.
    for count in range(3, 40):
        outputs, leaves = decoded([0, 0, *[1 + n % 5 for n in range(count - 2)]])
        passes(outputs, leaves, list(range(count)))


def test_clipped_numbers_have_no_rows_and_those_without_a_graph_are_zero():
    outputs, leaves = decoded([4, 0], clip=[(0, 0), (0, 2)])
    assert passes(outputs, leaves, [0, 1]) == 6
    assert (dense(next(jacobians(outputs, leaves, [0, 1])), leaves)[0][[0, 2]] == 0).all()
    nothing = Detections(outputs.boxes.detach(), outputs.scores, outputs.labels)
    assert all(not rows for rows, _ in (jacobian[0] for jacobian in jacobians(nothing, leaves, [0, 1])))


def test_derivatives_that_are_not_finite_are_not_shared_out():
    outputs, leaves = decoded([4, 0])
    broken = Detections(outputs.boxes * torch.tensor([[torch.nan], [1.0]]), outputs.scores, outputs.labels)
    for index, jacobian in enumerate(jacobians(broken, leaves, [0, 1])):
        for one, other in zip(dense(jacobian, leaves), one_by_one(broken, leaves, index), strict=True):
            torch.testing.assert_close(one, other, equal_nan=True)
