"""What needs an NVIDIA GPU; without one, these tests say so and are skipped."""

import pytest
import torch
from helpers.engine_cases import allow_double_nms


def pytest_runtest_setup():
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")


@pytest.fixture(autouse=True)
def _no_tf32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(params=["trained_retinanet", "trained_faster_rcnn"])
def trained(request, monkeypatch):
    allow_double_nms(monkeypatch)
    return request.getfixturevalue(request.param)
