import copy
import warnings
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from helpers.tiny_detection import TinyDataModule, make_trainer

from odsg_lightning.errors import NonFiniteLossError
from odsg_lightning.training.loss_watch import LossWatch
from odsg_lightning.training.module import DetectionModule

NAN, INF = float("nan"), float("inf")


def diverging(**settings):
    torch.manual_seed(0)
    return DetectionModule("retinanet_tiny", num_classes=3, optimizer=partial(torch.optim.SGD, lr=1e9), **settings)


def test_training_stops_at_the_step_by_name_before_the_weights_are_spoilt(tmp_path):
    module = diverging()
    trainer = make_trainer(max_steps=8)
    with pytest.raises(NonFiniteLossError, match=r"at step [12] loss_\w+ is (nan|inf).*images \[\d+, \d+\]") as raised:
        trainer.fit(module, TinyDataModule())
    assert isinstance(raised.value, FloatingPointError)
    assert f"at step {trainer.global_step} " in str(raised.value)
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())


@pytest.mark.filterwarnings("error:.*finite")
def test_a_training_that_goes_well_says_nothing():
    torch.manual_seed(0)
    module = DetectionModule("retinanet_tiny", num_classes=3, optimizer=partial(torch.optim.SGD, lr=1e-4))
    make_trainer(max_steps=3).fit(module, TinyDataModule())


def test_each_loss_is_named_with_its_value():
    watch = LossWatch()
    watch.keep(3, [5], {"loss_cls": torch.tensor(INF), "loss_rpn_loc": torch.tensor(NAN), "fine": torch.tensor(0.5)})
    with pytest.raises(NonFiniteLossError, match=r"step 3 loss_cls is inf, loss_rpn_loc is nan \(finite: fine 0.5; im"):
        watch.look(skips_steps=False)
    watch.look(skips_steps=False)  # it has been looked at


def test_with_a_gradient_scaler_it_is_a_warning_and_one_only():
    watch = LossWatch()
    watch.keep(1, [5], {"loss_cls": torch.tensor(INF)})
    with pytest.warns(RuntimeWarning, match=r"at step 1 loss_cls is inf.* gradient scaler skips such a step"):
        watch.look(skips_steps=True)
    watch.keep(2, [5], {"loss_cls": torch.tensor(INF)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.look(skips_steps=True)


def test_the_module_asks_for_the_scaler_of_its_precision():
    module = diverging()
    module._trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=object()))
    module._losses.keep(1, [5], {"loss_cls": torch.tensor(INF)})
    with pytest.warns(RuntimeWarning, match="step 1 loss_cls is inf"):
        module.on_before_backward(torch.tensor(INF))


class Arriving:
    """Stands for a CUDA event: the copy arrives when somebody waits for it."""

    waited = False

    def query(self):
        return self.waited

    def synchronize(self):
        self.waited = True


def test_a_copy_that_is_on_its_way_is_not_waited_for_until_the_next_step():
    module = diverging()
    module._losses.keep(1, [5], {"loss_cls": torch.tensor(NAN)})
    event = Arriving()
    module._losses._kept = module._losses._kept.__class__(1, [5], ("loss_cls",), torch.tensor([NAN]), event)
    module.on_before_backward(torch.tensor(0.0))
    assert not event.waited
    for _ in range(2):
        assert copy.deepcopy(module)._losses._kept is None
    with pytest.raises(NonFiniteLossError, match="step 1 loss_cls is nan"):
        module.on_save_checkpoint({})  # no spoilt weights over good ones
    assert event.waited


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_losses_are_looked_at_one_step_later():
    watch, losses = LossWatch(), {"loss_cls": torch.tensor(0.5, device="cuda")}
    watch.keep(0, [4], losses)  # the first time, memory for it is set aside, which waits
    watch.look(skips_steps=False)
    losses["loss_cls"].fill_(NAN)
    torch.cuda._sleep(1_000_000_000)
    watch.keep(1, [5], losses)
    assert not watch.ready
    with pytest.raises(NonFiniteLossError, match="step 1 loss_cls is nan"):
        watch.look(skips_steps=False)
