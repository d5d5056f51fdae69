"""What the tests of the gradient engines share."""

import pytest
from helpers.engine_cases import allow_double_nms


@pytest.fixture(autouse=True)
def _double_nms(monkeypatch):
    allow_double_nms(monkeypatch)


@pytest.fixture(params=["trained_retinanet", "trained_faster_rcnn"])
def trained(request):
    return request.getfixturevalue(request.param)
