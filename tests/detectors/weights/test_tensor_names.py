import pickle

import pytest
import torch
from torch import nn

from odsg_lightning.detectors.build import build_detector, load_config
from odsg_lightning.detectors.weights.load import load_state, load_weights
from odsg_lightning.detectors.weights.tensor_names import named_as
from odsg_lightning.errors import BrokenInputError

PREFIXES = ["_orig_mod.", "module.", "_orig_mod.module.", "module._orig_mod.", "_fsdp_wrapped_module."]


def detector(seed):
    torch.manual_seed(seed)
    return build_detector(load_config("retinanet_tiny", num_classes=2))


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("name", ["a.pth", "a.pkl"])
def test_weights_of_a_wrapped_detector_fill_it(tmp_path, name):
    source = detector(1).state_dict()
    for prefix in PREFIXES:
        target = detector(2)
        if name == "a.pth":
            torch.save({"model": {prefix + key: value for key, value in source.items()}}, tmp_path / name)
        else:
            model = {prefix + key: value.numpy() for key, value in source.items()}
            (tmp_path / name).write_bytes(pickle.dumps({"model": model, "__author__": "zoo"}))
        assert load_weights(target, tmp_path / name).complete
        assert all(torch.equal(value, source[key]) for key, value in target.state_dict().items())


def test_a_wrapped_part_and_a_wrapped_model_that_is_filled():
    source, target = detector(1), detector(2)
    source.backbone.bottom_up = torch.compile(source.backbone.bottom_up)
    target.head = torch.compile(target.head)
    load_state(target, {f"module.{name}": value for name, value in source.state_dict().items()}, "a.ckpt")
    assert torch.equal(target.state_dict()["head._orig_mod.cls_score.weight"], source.head.cls_score.weight)


def test_a_part_that_is_called_module_keeps_its_name():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.module, self.head = nn.Linear(1, 1), nn.Linear(1, 1)

    names = list(Own().state_dict())
    assert list(named_as(names, {f"_orig_mod.{name}": 0 for name in names})) == names
    assert list(named_as(names, dict.fromkeys(names, 0))) == names


def test_two_tensors_never_get_one_name():
    assert named_as(["a"], {"a": 1, "module.a": 2}) == {"a": 1, "module.a": 2}
    assert named_as([], {"module.a": 1, "_orig_mod.a": 2}) == {"module.a": 1, "_orig_mod.a": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("head.cls_score.bias"), r"not in the file: head\.cls_score\.bias\.$"),
        (lambda s: s.update(more=torch.zeros(1)), r"in the file only: more\.$"),
        (
            lambda s: s.update({"head.cls_score.bias": torch.zeros(5)}),
            r"cls_score\.bias \(detector \(12,\), file",
        ),
        (lambda s: s.update({"head.cls_score.bias": "text"}), r"tensors only, but .*: head\.cls_score\.bias"),
        (lambda s: s.update({3: torch.zeros(1)}), "tensors only, but these are none: 3"),
    ],
)
def test_a_state_that_does_not_fit_is_told_in_a_line(change, message):
    state = {f"_orig_mod.{name}": value for name, value in detector(1).state_dict().items()}
    state = named_as(detector(1).state_dict(), state)
    change(state)
    with pytest.raises(BrokenInputError, match=message) as raised:
        load_state(detector(2), state, "a.ckpt")
    assert len(str(raised.value)) < 400
