"""The rules of LRP by hand and by loops, what is folded, what is conserved, and captum's input times gradient."""

import numpy as np
import pytest
import torch
from captum.attr import InputXGradient
from helpers.engine_cases import full_size
from torch import nn
from torch.nn import functional

from odsg_lightning.detectors.detectron2 import Detectron2Adapter
from odsg_lightning.detectors.detectron2_names import Conv2d, FrozenBatchNorm2d
from odsg_lightning.errors import UserInputError
from odsg_lightning.explainers.relevance import RelevanceMode


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def propagated(network, x, mode, index=0):
    """Return the relevance of the input for one output, which starts with its own value, and that value."""
    leaf = x.clone().requires_grad_()
    with mode:
        output = network(leaf).flatten()[index]
    (c,) = torch.autograd.grad(output, leaf)
    return (c * leaf).detach(), float(output.detach())


# By hand, by loops ---------------------------------------------------------------------------------------------------


def test_two_linear_layers_by_hand():
    """Inputs 1, 2; hidden 1 * 1 + 2 * 1 = 3 and ReLU(1 - 2 * 2) = 0, 2 * 1 - 1 * 2 = 0; output 2 * 3."""
    first, last = torch.tensor([[1.0, 1.0], [1.0, -2.0]]), torch.tensor([[2.0, 5.0]])
    relevance, output = propagated(
        lambda x: functional.linear(functional.linear(x, first).relu(), last),
        torch.tensor([[1.0, 2.0]]),
        RelevanceMode(epsilon=0),
    )
    assert output == 6
    assert relevance.tolist() == [[2, 4]]  # 6, shared as 1 to 2


def test_epsilon_takes_a_little_away():
    weight = torch.tensor([[1.0, -3.0]])
    x = torch.tensor([[1.0, 1.0]])
    relevance, output = propagated(lambda x: functional.linear(x, weight), x, RelevanceMode(epsilon=0.5))
    assert output == -2
    torch.testing.assert_close(relevance, torch.tensor([[1.0, -3.0]]) * (-2 / -2.5))


@pytest.mark.parametrize("negative", [False, True])
def test_zplus_as_loops(negative):
    x, weight = random(1, 2, 4, 5), random(3, 2, 3, 3, seed=1)
    x = x if negative else x.abs()
    share = random(1, 3, 2, 3, seed=2)
    leaf = x.clone().requires_grad_()
    with RelevanceMode(first="zplus") as mode:
        z = functional.conv2d(leaf, weight, stride=2, padding=1)
    (c,) = torch.autograd.grad((z * share).sum(), leaf)
    padded, expected = np.pad(x[0].numpy(), ((0, 0), (1, 1), (1, 1))), np.zeros((2, 6, 7))
    for k in range(3):
        for i in range(2):
            for j in range(3):
                window = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
                parts = np.maximum(window * weight[k].numpy(), 0)
                relevance = float(z[0, k, i, j] * share[0, k, i, j])
                expected[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] += relevance * parts / parts.sum()
    np.testing.assert_allclose((c * x)[0].numpy(), expected[:, 1:-1, 1:-1], rtol=1e-9, atol=1e-12)
    assert mode.lost_units == 0


def test_flat_gives_every_pixel_of_a_window_the_same_but_none_to_the_padding():
    weight = random(2, 3, 3, 3)
    leaf = random(1, 3, 3, 3, seed=1).requires_grad_()
    with RelevanceMode():
        z = functional.conv2d(leaf, weight, padding=1)
    (relevance,) = torch.autograd.grad(z[0, 1, 0, 0], leaf)  # a corner: 2x2 pixels of 3 channels
    expected = torch.zeros(3, 3, 3, dtype=torch.float64)
    expected[:, :2, :2] = float(z[0, 1, 0, 0]) / 12
    torch.testing.assert_close(relevance[0], expected)


def test_units_without_positive_input_are_counted():
    weight = torch.tensor([[[[-1.0]]], [[[2.0]]]], dtype=torch.float64)
    bias = torch.tensor([5.0, 0.0], dtype=torch.float64)
    x = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    mode = RelevanceMode(first="zplus")
    leaf = x.requires_grad_()
    with mode:
        z = functional.conv2d(leaf, weight, bias)
    (c,) = torch.autograd.grad(z.sum(), leaf)
    assert (mode.lost, mode.lost_units) == (16, 4)  # four cells of 5 - 1
    assert float((c * leaf).sum()) == 8


# What needs no rule --------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """Convolutions in blocks whose shortcuts must not count twice, a maximum, a pyramid's sum."""

    def __init__(self, bias):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=bias)
        self.blocks = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1, bias=bias) for _ in range(4))
        self.top, self.lateral = nn.Conv2d(6, 6, 1, bias=bias), nn.Conv2d(6, 6, 1, bias=bias)
        self.last = nn.Linear(6, 2, bias=bias)

    def forward(self, x):
        x = functional.relu_(self.stem(x))
        for block in self.blocks[:2]:
            out = block(x)
            out += x
            x = functional.relu_(out)
        low = x
        x = functional.max_pool2d(x, 2)
        for block in self.blocks[2:]:
            x = functional.relu(block(x) + x)
        x = functional.interpolate(self.top(x), scale_factor=2.0, mode="nearest") + self.lateral(low)
        return self.last(x.relu().mean(dim=(2, 3)))


def network(bias=False):
    torch.manual_seed(0)
    return Residual(bias).double().requires_grad_(False)


def test_without_rules_of_its_own_it_is_input_times_gradient():
    model, x = network(), random(1, 3, 8, 8)
    relevance, output = propagated(model, x, RelevanceMode("epsilon", "epsilon", 0))
    expected = InputXGradient(model).attribute(x.clone().requires_grad_(), target=0)
    assert float((relevance - expected).abs().max()) <= 1e-12 * float(expected.abs().max())
    assert float(relevance.sum()) == pytest.approx(output, rel=1e-12)


@pytest.mark.parametrize("bias", [False, True])
def test_zplus_conserves_relevance_over_residual_and_pyramid_sums(bias):
    """A linear layer shares with its bias; where that has none, nothing is added or lost."""
    model = network(bias)
    if bias:
        model.last.bias.zero_()
    for seed in range(3):
        mode = RelevanceMode(first="zplus", epsilon=0)
        relevance, output = propagated(model, random(1, 3, 8, 8, seed=seed), mode)
        assert float(relevance.sum()) + mode.lost == pytest.approx(output, rel=1e-9)


# What is folded ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FrozenBatchNorm2d, nn.BatchNorm2d])
@pytest.mark.parametrize("bias", [False, True])
def test_a_batch_norm_is_part_of_its_convolution(kind, bias):
    norm = kind(4).double().eval().requires_grad_(False)
    for tensor, seed in ((norm.weight, 1), (norm.bias, 2), (norm.running_mean, 3)):
        tensor.copy_(random(4, seed=seed))  # scales of both signs
    norm.running_var.copy_(random(4, seed=4).abs() + 0.1)
    torch.manual_seed(5)
    conv = Conv2d(3, 4, 3, padding=1, bias=bias, norm=norm).double().requires_grad_(False)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    folded = nn.Conv2d(3, 4, 3, padding=1).double().requires_grad_(False)
    folded.weight.copy_(conv.weight * scale[:, None, None, None])
    folded.bias.copy_(norm.bias + ((conv.bias if bias else 0) - norm.running_mean) * scale)
    x = random(1, 3, 5, 5, seed=6)
    torch.testing.assert_close(conv(x), folded(x))
    for index in range(0, 100, 7):
        ours, expected = (propagated(one, x, RelevanceMode(first="zplus"), index)[0] for one in (conv, folded))
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


def test_what_was_changed_in_place_is_not_folded():
    weight, scale = random(2, 1, 1, 1).abs(), torch.full((1, 2, 1, 1), 3.0, dtype=torch.float64)
    x = random(1, 1, 2, 2, seed=1).abs()

    def changed(x):
        z = functional.conv2d(x, weight)
        z += z.detach() * 0 + 1
        return z * scale

    relevance, output = propagated(changed, x, RelevanceMode("epsilon", "epsilon", 0))
    assert output == pytest.approx(3 * (float(x[0, 0, 0, 0] * weight[0, 0, 0, 0]) + 1))
    assert float(relevance.sum()) == pytest.approx(output - 3)


def test_a_batch_norm_that_learns_is_refused():
    model = Conv2d(1, 1, 1, norm=nn.BatchNorm2d(1)).train()
    with pytest.raises(UserInputError, match="Expected batch norms with fixed statistics for LRP"):
        propagated(model, torch.ones(1, 1, 2, 2), RelevanceMode())


def test_a_layer_without_a_rule_is_refused():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.GroupNorm(1, 2))
    with pytest.raises(UserInputError, match="but it calls group_norm, for which there is no rule here"):
        propagated(model, torch.ones(1, 1, 2, 2), RelevanceMode())


# Real detectors ------------------------------------------------------------------------------------------------------

IMAGE = random(3, 64, 96).abs() * 100


@pytest.fixture(scope="module", params=["retinanet_R_50_FPN", "faster_rcnn_R_50_FPN"])
def outputs(request):
    """One candidate of a detector without biases, that sees the pixels as they are."""
    model = full_size(request.param).double()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith(("bias", "running_mean", "pixel_mean")):
            tensor.data.zero_()
    adapter = Detectron2Adapter(model)
    candidates = adapter.candidates_for_objects(IMAGE, torch.tensor([[10.0, 12, 60, 50]]), torch.tensor([1]))
    return adapter.outputs_of(candidates)


def value(outputs):
    with torch.no_grad():
        return float(outputs.detect([IMAGE])[0].scores[0])


def test_a_detector_without_biases_has_input_times_gradient(outputs):
    with RelevanceMode("epsilon", "epsilon", 0):
        look = outputs.features(IMAGE, "input")
    [[feature]] = look.of_candidates([0], [4])
    ours = (feature.activation * feature.gradients[0]).flip(0)[:, :64, :96]
    theirs = InputXGradient(lambda batch: outputs.detect(list(batch))[0].scores).attribute(
        IMAGE[None].clone().requires_grad_()
    )[0]
    assert float((ours - theirs).abs().max()) <= 1e-12 * float(theirs.abs().max())
    assert float(theirs.abs().max()) > 0


def test_relevance_is_conserved_at_every_layer_that_all_of_it_passes(outputs):
    """All passes the level that predicts, the lowest stage that the pyramid is given, and what lies below."""
    expected, mode = value(outputs), RelevanceMode(first="zplus", epsilon=0)
    with mode:
        look = outputs.features(IMAGE, "all")
    [features] = look.of_candidates([0], [4])
    relevance = {one.layer: float((one.activation * one.gradients[0]).sum()) for one in features}
    whole = ["res2", features[0].layer, *(["res3"] if hasattr(outputs.model, "head") else [])]
    for layer in whole:
        assert relevance[layer] == pytest.approx(expected, rel=1e-9), (layer, mode.lost_units)
    assert mode.lost_units == 0
    with RelevanceMode(epsilon=0) as mode:
        look = outputs.features(IMAGE, "input")
    [[feature]] = look.of_candidates([0], [4])
    assert float(feature.gradients.sum()) == pytest.approx(expected, rel=1e-9)
    assert mode.lost_units == 0
