import threading

import pytest
import torch
from torch import nn

from odsg_lightning.detectors.whole_graph import WholeGraph


def test_batch_normalisation_of_one_image_has_the_right_gradient_whatever_the_order_of_its_cotangent():
    layer = nn.BatchNorm2d(3).eval().double()
    layer.running_var.copy_(torch.tensor([0.5, 1.0, 2.0]))
    image = torch.randn(1, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    tokens = torch.randn(1, 20, 3, dtype=torch.float64)  # channels last, as the tokens of an encoder are
    with WholeGraph():
        output = layer(image)
    (gradient,) = torch.autograd.grad((output.flatten(2).transpose(1, 2) * tokens).sum(), image)
    factor = layer.weight / (layer.running_var + layer.eps).sqrt()
    assert torch.allclose(gradient, tokens.transpose(1, 2).view(1, 3, 4, 5) * factor[:, None, None])


def test_detached_values_stay_detached_unless_asked_for():
    leaf = torch.tensor(2.0, requires_grad=True)
    with WholeGraph():
        assert not leaf.detach().requires_grad
    with WholeGraph(through_refinement=True):
        assert leaf.detach() is leaf


def test_other_threads_and_what_comes_after_an_error_are_as_before():
    leaf, seen = torch.tensor(2.0, requires_grad=True), []

    def fails():
        with WholeGraph(through_refinement=True):
            thread = threading.Thread(target=lambda: seen.append(leaf.detach().requires_grad))
            thread.start()
            thread.join()
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fails()
    assert seen == [False]
    assert not leaf.detach().requires_grad
