"""Nothing of an audit may be left behind: each trace is left on purpose, and must be gone."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from odsg_lightning.audit.isolation import isolated


@pytest.fixture
def module():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Conv2d(4, 1, 1))
    net[3].weight.requires_grad_(False)
    net[1].eval()  # a frozen layer inside a net in training mode
    net[0].weight.grad = torch.ones_like(net[0].weight)
    return net


def state(module):
    return {
        "modes": [child.training for child in module.modules()],
        "flags": [parameter.requires_grad for parameter in module.parameters()],
        "gradients": [p.grad if p.grad is None else p.grad.tolist() for p in module.parameters()],
        "hooks": [len(child._forward_hooks) + len(child._forward_pre_hooks) for child in module.modules()],
        "buffers": [buffer.tolist() for buffer in module.buffers()],
        "random": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),
    }


def leave_traces(module):
    module.train()
    module(torch.rand(2, 3, 8, 8))  # moves the running statistics, and the random state by dropout
    module[0].weight.requires_grad_()
    module(torch.rand(2, 3, 8, 8)).sum().backward()
    module[1].register_forward_hook(lambda *_: None)
    module[2].register_forward_pre_hook(lambda *_: None)
    module[3].weight.requires_grad_()
    random.random()
    np.random.rand()


def test_every_trace_is_removed(module):
    before = state(module)
    with isolated(module):
        leave_traces(module)
    assert state(module) == before


def test_also_after_an_error(module):
    before = state(module)

    def fail():
        with isolated(module):
            leave_traces(module)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert state(module) == before


def test_the_traces_are_real(module):
    before = state(module)
    leave_traces(module)
    after = state(module)
    assert [name for name in before if before[name] == after[name]] == []


def test_inside_is_eval_mode_without_parameter_gradients(module):
    with isolated(module):
        assert not any(child.training for child in module.modules())
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_works_inside_inference_mode(module):
    with torch.inference_mode(), isolated(module):
        image = torch.ones(1, 3, 8, 8, requires_grad=True)
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(module(image).sum(), image)
    assert gradient.abs().sum() > 0


def test_replaced_and_added_parts_are_put_back(module):
    parts = [*module.parameters(), *module.buffers(), *module.modules()]
    with isolated(module):
        module[1].running_mean = module[1].running_mean + 1  # as `self.average = 0.9 * self.average + ...` does
        module[0].weight = nn.Parameter(torch.zeros(4, 3, 3, 3))
        module[3].register_buffer("cache", torch.zeros(1))
        module.add_module("late", nn.ReLU())
    assert list(map(id, parts)) == list(map(id, [*module.parameters(), *module.buffers(), *module.modules()]))


def test_removed_hook_is_put_back(module):
    handle = module[0].register_forward_hook(lambda *_: None)
    with isolated(module):
        handle.remove()
    assert len(module[0]._forward_hooks) == 1


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="needs torch 2.6")
def test_nothing_is_compiled_inside():
    class Net(nn.Module):
        def forward(self, images):
            return images.sin()

    compiled = []

    def backend(graph, _):
        compiled.append(graph)
        return graph.forward

    net = Net()
    net.compile(backend=backend)
    net(torch.rand(2, 3))
    assert len(compiled) == 1
    with isolated(net):
        net(torch.rand(1, 3, 8, 8, requires_grad=True))
    assert len(compiled) == 1
    net(torch.rand(2, 3, 8, 8))  # outside, another shape is compiled
    assert len(compiled) == 2


def test_values_and_versions_of_parameters_are_untouched(module):
    versions = [parameter._version for parameter in module.parameters()]
    with isolated(module):
        module(torch.rand(1, 3, 8, 8))
    assert versions == [parameter._version for parameter in module.parameters()]


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_weights_of_half_precision_are_single_inside_and_the_very_same_again_outside(half, module):
    module[:3].to(half)  # and one layer that is single already
    tensors = [*module.parameters(), *module.buffers()]
    before = [(tensor.data_ptr(), tensor.clone()) for tensor in tensors]
    versions = [parameter._version for parameter in module.parameters()]
    with isolated(module):
        assert all(tensor.dtype == torch.float32 for tensor in tensors if tensor.is_floating_point())
        assert module(torch.rand(1, 3, 8, 8)).dtype == torch.float32
        assert torch.equal(module[0].weight, before[0][1].float())
        module.train()(torch.rand(2, 3, 8, 8))  # moves the running statistics
    assert module[0].weight.dtype == module[1].running_mean.dtype == half
    assert [parameter._version for parameter in module.parameters()] == versions
    for tensor, (place, values) in zip(tensors, before, strict=True):
        assert tensor.data_ptr() == place
        assert torch.equal(tensor, values)
    assert module[0].weight.grad.dtype == half
