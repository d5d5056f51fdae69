"""On the two real detectors, untrained: what is permuted when, and what stays."""

import copy

import pytest
import torch
from torch import nn

from odsg_lightning.detectors.build import build_detector, load_config
from odsg_lightning.sanity.randomise import cascade, stages

STAGES = ["predictor", "head", "fpn", "res5", "res4", "res3", "res2", "stem"]


@pytest.fixture(scope="module", params=["retinanet_tiny", "faster_rcnn_tiny"])
def model(request):
    torch.manual_seed(0)
    return build_detector(load_config(request.param)).eval()


def test_every_weight_belongs_to_one_stage_from_the_outputs_down(model):
    found = stages(model)
    assert list(found) == STAGES
    weights = [id(weight) for of_stage in found.values() for weight in of_stage]
    expected = [
        id(module.weight) for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))
    ]  # of real modules, not by names
    assert sorted(weights) == sorted(expected)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    predictor = {names[id(weight)].rpartition(".")[0] for weight in found["predictor"]}
    heads = {"head.cls_score", "head.bbox_pred"}, {f"roi_heads.box_predictor.{n}" for n in ("cls_score", "bbox_pred")}
    assert predictor in heads


def test_weights_are_permuted_stage_by_stage_and_nothing_else_is(model):
    model = copy.deepcopy(model)
    for weights in stages(model).values():
        for weight in weights:
            weight.data.abs_()  # so that signs and order can be told apart
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stage_of = {id(weight): stage for stage, weights in stages(model).items() for weight in weights}
    by_name = {name: stage_of.get(id(parameter)) for name, parameter in model.named_parameters()}
    done = []
    for stage, randomised in cascade(model, seed=3):
        done.append(stage)
        for name, value in randomised.state_dict().items():
            permuted = by_name.get(name) in done
            assert torch.equal(value, before[name]) == (not permuted or before[name].unique().numel() == 1), name
            assert torch.equal(value.abs().flatten().sort().values, before[name].abs().flatten().sort().values), name
            if permuted and value.numel() > 2000:
                assert abs(float((value > 0).double().mean()) - 0.5) < 0.05
                magnitudes = torch.stack([value.abs().flatten(), before[name].flatten()])
                assert abs(float(torch.corrcoef(magnitudes)[0, 1])) < 0.1
    assert done == STAGES
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_seed_alone_decides(model):
    state = torch.get_rng_state()
    first, second, third = ([m.state_dict() for _, m in cascade(model, seed)][-1] for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    name = "backbone.bottom_up.res2.0.conv1.weight"
    assert not torch.equal(first[name], third[name])
    assert torch.equal(torch.get_rng_state(), state)


def test_other_backbones_go_by_their_own_parts():
    def part(*names):
        return nn.ModuleDict({name: nn.Conv2d(1, 1, 1) for name in names})

    c4 = nn.ModuleDict(
        {
            "backbone": part("stem", "res2", "res3", "res4"),
            "proposal_generator": part("rpn_head"),
            "roi_heads": part("res5", "box_predictor"),
        }
    )
    assert list(stages(c4)) == ["predictor", "head", "res4", "res3", "res2", "stem"]
    assert len(stages(c4)["head"]) == 2
    vit = nn.ModuleDict({"backbone": part("net", "simfp_2"), "head": part("cls_subnet", "cls_score")})
    assert list(stages(vit)) == ["predictor", "head", "simfp_2", "net"]
