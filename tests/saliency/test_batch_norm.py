"""PyTorch's own gradients of batch normalisation are wrong in some layouts of memory; those of an audit are right."""

import pytest
import torch
from torch import nn

from odsg_lightning.saliency.batch_norm import RightBatchNorm
from odsg_lightning.saliency.gradients import AutogradLinearization
from odsg_lightning.types import Detections


def as_tokens(tensor):
    """Channels last, with the batch stride of the tokens."""
    return tensor.flatten(2).transpose(1, 2).contiguous().transpose(1, 2).view_as(tensor)


def channels_last(tensor):
    return tensor.contiguous(memory_format=torch.channels_last)


LAYOUTS = [torch.Tensor.contiguous, channels_last, as_tokens]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("of_input", LAYOUTS)
@pytest.mark.parametrize("of_cotangent", LAYOUTS)
def test_the_gradient_is_the_cotangent_times_the_slope_in_every_layout(count, of_input, of_cotangent):
    layer = nn.BatchNorm2d(3).eval().double()
    layer.running_var.copy_(torch.tensor([0.5, 1.0, 2.0]))
    generator = torch.Generator().manual_seed(0)
    image, cotangent = torch.randn(2, count, 3, 4, 5, dtype=torch.float64, generator=generator)
    image = of_input(image).requires_grad_()
    with RightBatchNorm():
        output = layer(image)
    (gradient,) = torch.autograd.grad(output, image, of_cotangent(cotangent))
    slope = layer.weight / (layer.running_var + layer.eps).sqrt()
    assert torch.allclose(gradient, cotangent * slope[:, None, None])


def test_an_audit_has_them_whatever_adapter_made_the_graph():
    layer, weights = nn.BatchNorm2d(3).eval(), torch.rand(5, 20, 3, generator=torch.Generator().manual_seed(0))
    layer.running_var.copy_(torch.tensor([0.5, 1.0, 2.0]))

    class Tokens:
        def detect(self, images):
            tokens = layer(torch.stack(images)).flatten(2).transpose(1, 2)
            numbers = torch.stack([(tokens * weight).sum((1, 2)) for weight in weights], 1)
            return [Detections(one[None, :4], one[4:], torch.tensor([0])) for one in numbers]

    (gradient,) = AutogradLinearization(Tokens(), torch.rand(3, 4, 5)).gradients([0])
    slope = layer.weight / (layer.running_var + layer.eps).sqrt()
    expected = (weights * slope).transpose(1, 2).view(5, 3, 4, 5)
    assert torch.allclose(gradient.values, expected)
