import threading

import pytest
import torch

from odsg_lightning.detectors.whole_graph import WholeGraph


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
