"""Several outputs in one backward pass against one pass for each."""

import warnings

import pytest
import torch
from torch import nn

from odsg_lightning.saliency.batched import BatchedGradients
from odsg_lightning.saliency.gradients import linearize
from odsg_lightning.types import Detections


class Attending:
    """Objects that look at each other, as queries do; the box of the second does not depend on the image."""

    def __init__(self, count: int = 7) -> None:
        generator = torch.Generator().manual_seed(0)
        self.embed = nn.Conv2d(3, 8, 4, 4).double()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True).double()
        for parameter in [*self.embed.parameters(), *self.attention.parameters()]:
            parameter.data.normal_(0, 0.1, generator=generator)
        self.count = count

    def detect(self, images):
        found = []
        for image in images:
            tokens = self.embed(image[None] / 255).flatten(2).transpose(1, 2)
            tokens = self.attention(tokens, tokens, tokens, need_weights=False)[0][0, : self.count]
            boxes = torch.stack([row if number != 1 else row.detach() for number, row in enumerate(tokens[:, :4])])
            found.append(Detections(boxes, tokens[:, 4].sigmoid(), torch.zeros(self.count).long()))
        return found


IMAGE = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 255


def test_they_equal_one_by_one():
    one_by_one = list(linearize(Attending(), IMAGE, engine="autograd").gradients(range(7)))
    together = list(linearize(Attending(), IMAGE, engine="batched").gradients(range(7)))
    for alone, batched in zip(one_by_one, together, strict=True):
        assert (alone.values - batched.values).abs().max() <= 1e-12 * alone.values.abs().max()
    assert one_by_one[2].values[0].abs().max() > 0


def numbers(image, count):
    return [(image * weight).square().sum() for weight in range(1, count + 1)]


@pytest.fixture
def calls(monkeypatch):
    """How many cotangents each backward pass has."""
    made, grad = [], torch.autograd.grad

    def counted(outputs, *args, **kwargs):
        made.append(len(outputs) if outputs.ndim else 1)
        return grad(outputs, *args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    return made


@pytest.mark.parametrize(("limit", "expected"), [(1, [1] * 7), (3, [3, 3, 1]), (None, [7])])
def test_a_pass_has_as_many_as_the_limit(limit, expected, calls):
    image = torch.ones(3, requires_grad=True)
    gradients = list(BatchedGradients(image, limit=limit)(numbers(image, 7)))
    assert calls == expected
    assert [float(gradient[0]) for gradient in gradients] == [2 * weight**2 for weight in range(1, 8)]


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError, RuntimeError])
def test_out_of_memory_halves_the_limit_and_goes_on(error, calls, monkeypatch):
    counted = torch.autograd.grad

    def small(outputs, *args, **kwargs):
        if outputs.ndim and len(outputs) > 3:
            raise error("can't allocate memory")
        return counted(outputs, *args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", small)
    image = torch.ones(3, requires_grad=True)
    gradients = list(BatchedGradients(image)(numbers(image, 7)))
    assert calls == [3, 3, 1]
    assert [float(gradient[0]) for gradient in gradients] == [2 * weight**2 for weight in range(1, 8)]


class Clever(torch.autograd.Function):
    """Looks at the values in its backward pass, which no batch of them has."""

    @staticmethod
    def forward(ctx, image):
        return 2 * image

    @staticmethod
    def backward(ctx, cotangent):
        return 2 * cotangent if float(cotangent.sum()) != 0 else cotangent


def test_what_cannot_take_several_gets_one_by_one_and_a_warning(calls):
    image = torch.ones(3, requires_grad=True)
    gradients = BatchedGradients(image)
    with pytest.warns(RuntimeWarning, match=r"one backward pass for each number.*raised RuntimeError: .*item"):
        found = list(gradients(numbers(Clever.apply(image), 3)))
    assert calls == [3, 1, 1, 1]
    assert [float(gradient[0]) for gradient in found] == [8, 32, 72]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once
        list(gradients(numbers(Clever.apply(image), 3)))


def test_an_error_of_one_alone_is_raised():
    image = torch.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        list(BatchedGradients(image)([torch.zeros(())]))
