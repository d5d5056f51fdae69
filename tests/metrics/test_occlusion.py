import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from odsg_lightning.metrics.occlusion import Occlusion, necessity, occlusion_values, sufficiency

NAN = float("nan")


def test_golden_values_by_hand():
    # object 1: 0.45 of 0.9 is a half, 0.9 of 0.9 all: at least a half; hidden, 0.3 of 0.9 are left: 2/3 gone
    # object 2: one replacement cannot be judged, under the other it scores higher than before: 1; hidden, it is gone
    # object 3: nothing can be judged
    alone = torch.tensor([[0.45, 0.9], [NAN, 0.8], [NAN, NAN]])
    hidden = torch.tensor([[0.3], [0.0], [NAN]])
    whole = torch.tensor([0.9, 0.6, 0.7])
    assert sufficiency(alone, whole).tolist() == pytest.approx([0.5, 1.0, NAN], nan_ok=True)
    assert necessity(hidden, whole).tolist() == pytest.approx([2 / 3, 1.0, NAN], nan_ok=True)


def test_a_higher_score_without_the_object_is_no_negative_necessity():
    assert necessity(torch.tensor([[0.9]]), torch.tensor([0.5])).tolist() == [0.0]


def brute_force(scores, whole, gone):
    rows = []
    for row, reference in zip(scores, whole, strict=True):
        shares = [min(score / reference, 1) for score in row if not np.isnan(score)]
        rows.append(min(1 - share if gone else share for share in shares) if shares else np.nan)
    return rows


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.integers(1, 4))
def test_equals_brute_force_and_stays_between_0_and_1(seed, count, replacements):
    rng = np.random.default_rng(seed)
    scores, whole = rng.random((count, replacements)), rng.uniform(0.05, 1, count)
    scores[rng.random(scores.shape) < 0.2] = np.nan
    for measure, gone in ((sufficiency, False), (necessity, True)):
        found = measure(torch.from_numpy(scores), torch.from_numpy(whole)).numpy()
        assert found == pytest.approx(np.array(brute_force(scores, whole, gone)), abs=1e-12, nan_ok=True)
        assert ((found >= 0) & (found <= 1) | np.isnan(found)).all()


@pytest.mark.parametrize("measure", [sufficiency, necessity])
@pytest.mark.parametrize(("scores", "whole"), [((3,), (3,)), ((3, 2), (2,)), ((3, 2), (3, 1)), ((3, 0), (3,))])
def test_shapes_that_do_not_fit_are_refused(measure, scores, whole):
    with pytest.raises(ValueError, match=r"\[N, R\] with R >= 1 and `whole` \[N\], but got"):
        measure(torch.zeros(scores), torch.ones(whole))


def test_the_metric_keeps_every_object_and_leaves_undefined_values_out():
    metric = Occlusion()
    metric.update(torch.tensor([[0.9]]), torch.tensor([[0.0]]), torch.tensor([0.9]))
    metric.update(values=torch.tensor([[0.0, NAN]]))
    assert metric.per_object().flatten().tolist() == pytest.approx([1, 1, 0, NAN], nan_ok=True)
    assert {name: float(value) for name, value in metric.compute().items()} == {"sufficiency": 0.5, "necessity": 1.0}


def test_of_nothing_is_nan():
    metric = Occlusion()
    assert all(value.isnan() for value in metric.compute().values())
    assert occlusion_values([], torch.zeros(0)).shape == (0, 2)


def test_the_metric_pickles_clones_and_resets():
    metric = Occlusion()
    metric.update(values=torch.tensor([[0.25, 0.5]]))
    for copy in (pickle.loads(pickle.dumps(metric)), metric.clone()):
        assert float(copy.compute()["sufficiency"]) == 0.25
    metric.reset()
    assert metric.per_object().shape == (0, 2)


def test_wrong_arguments_are_refused():
    metric = Occlusion()
    with pytest.raises(ValueError, match="Expected arguments `alone`, `hidden` and `whole`, or `values`"):
        metric.update(torch.zeros(1, 1))
    with pytest.raises(ValueError, match=r"Expected argument `values` to be \[N, 2\]"):
        metric.update(values=torch.zeros(3))
