"""Guided backpropagation that reaches every ReLU, against captum's on a copy whose ReLUs are all modules."""

import copy
import warnings
from types import MethodType

import pytest
import torch
from captum.attr import GuidedBackprop
from helpers.engine_cases import full_size
from torch import nn
from torch.nn import functional

from odsg_lightning.detectors.detectron2 import Detectron2Adapter
from odsg_lightning.explainers.guided_grad_cam import guided_backprop
from odsg_lightning.explainers.guided_relu import GuidedReLU

IMAGE = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 255


def outputs_of(name):
    adapter = Detectron2Adapter(full_size(name).double())
    return adapter.outputs_of(
        adapter.candidates_for_objects(IMAGE, torch.tensor([[10.0, 12, 60, 50]]), torch.tensor([1]))
    )


@pytest.mark.parametrize(
    ("name", "calls"),
    # 1 of the stem, 3 of each of 16 blocks; RetinaNet: 1 between p6 and p7, 8 of the head at each of 5 levels
    [("retinanet_R_50_FPN", 49 + 1 + 40), ("faster_rcnn_R_50_FPN", 49 + 2)],
)
def test_every_relu_is_caught_and_captum_agrees_where_all_are_modules(name, calls):
    outputs = outputs_of(name)
    with torch.no_grad(), GuidedReLU() as mode:
        (found,) = outputs.detect([IMAGE])
    assert mode.calls == calls
    assert found == outputs.detect([IMAGE])[0].detach()  # the forward pass is as it was

    def score(batch):
        (found,) = modular.detect(list(batch))
        return found.scores

    [maps] = guided_backprop(outputs, IMAGE, [0])
    modular = copy.deepcopy(outputs)
    only_modules(modular.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # captum's, of what it does to the ReLUs
        expected = GuidedBackprop(Calling(modular.model, score)).attribute(IMAGE[None])[0].abs().amax(dim=0)
    assert float((maps[0] - expected).abs().max()) <= 1e-12 * float(expected.max())
    (plain,) = outputs.linearize(IMAGE, engine="autograd").gradients([0])
    assert float((maps[0] - plain.values[4].abs().amax(dim=0)).abs().max()) > 0.1 * float(expected.max())


class Calling(nn.Module):
    """Calls a function where a module is wanted, with the modules that the function uses inside."""

    def __init__(self, model, function):
        super().__init__()
        self.model, self.function = model, function

    def forward(self, batch):
        return self.function(batch)


def only_modules(model):
    """Make every ReLU of Detectron2's ResNet and pyramid a module of its own, each called once."""
    resnet = model.backbone.bottom_up
    resnet.stem.relu = nn.ReLU()
    resnet.stem.forward = MethodType(
        lambda self, x: functional.max_pool2d(self.relu(self.conv1(x)), 3, stride=2, padding=1), resnet.stem
    )
    for block in (block for stage in resnet.stages for block in stage):
        block.relus = nn.ModuleList(nn.ReLU() for _ in range(3))
        block.forward = MethodType(bottleneck, block)
    top = model.backbone.top_block
    if hasattr(top, "p7"):
        top.relu = nn.ReLU()
        top.forward = MethodType(lambda self, c5: [p6 := self.p6(c5), self.p7(self.relu(p6))], top)


def bottleneck(self, x):
    out = self.relus[0](self.conv1(x))
    out = self.relus[1](self.conv2(out))
    shortcut = x if self.shortcut is None else self.shortcut(x)
    return self.relus[2](self.conv3(out) + shortcut)


@pytest.mark.parametrize(
    "relu",
    [
        functional.relu,
        functional.relu_,
        torch.relu,
        torch.relu_,
        torch.Tensor.relu,
        torch.Tensor.relu_,
        nn.ReLU(),
        nn.ReLU(inplace=True),
        lambda x: functional.relu(input=x, inplace=True),
    ],
)
def test_every_way_to_call_a_relu_is_guided(relu):
    leaf = torch.tensor([-1.0, 2.0, 3.0, 0.0], requires_grad=True)
    with GuidedReLU() as mode:
        y = relu(leaf * 1)
    assert mode.calls == 1
    assert y.tolist() == [0, 2, 3, 0]
    (gradient,) = torch.autograd.grad(y, leaf, torch.tensor([5.0, 5.0, -5.0, 5.0]))
    assert gradient.tolist() == [0, 5, 0, 0]


def test_open_relus_and_positive_weights_leave_the_plain_gradient():
    network = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    for parameter in network.parameters():
        parameter.data.abs_()
    x = torch.rand(1, 4, dtype=torch.float64, requires_grad=True)
    (plain,) = torch.autograd.grad(network(x), x)
    with GuidedReLU():
        y = network(x)
    assert torch.equal(torch.autograd.grad(y, x)[0], plain)
