import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from odsg_lightning.viz.curves import _spread, step_curves


def test_a_curve_is_labelled_with_its_last_value():
    svg = step_curves("iof", [100, 200, 300], {"object": [0.1, 0.5, 0.62], "edge": [0.05, 0.3, None]})
    assert ElementTree.fromstring(svg.replace("xlink:href", "href")).get("aria-label") == (
        "iof over steps 100 to 300; last values: object 0.62, edge 0.30."
    )
    assert ">object 0.62<" in svg
    assert ">edge 0.30<" in svg
    assert svg == step_curves("iof", [100, 200, 300], {"object": [0.1, 0.5, 0.62], "edge": [0.05, 0.3, None]})


def test_an_undefined_value_leaves_a_gap():
    def lines(values):
        svg = step_curves("iof", [1, 2, 3, 4, 5], {"object": values})
        (path,) = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--series-1[^>]*stroke-width: 1.8', svg)
        return path.count("M")

    assert lines([0.1, 0.2, 0.3, 0.4, 0.5]) == 1
    assert lines([0.1, 0.2, None, 0.4, 0.5]) == 2


def test_curves_differ_in_their_dashes():
    svg = step_curves("iof", [1, 2], {label: [0.1, 0.2] for label in "abcdef"})
    styles = [style for style in re.findall(r'style="([^"]*)"', svg) if "stroke-width: 1.8" in style]
    assert len({re.sub(r"var\(--series-\d, #\w+\)", "", style) for style in styles}) == 6


def test_negative_correlation_is_shown():
    axis = step_curves("drift", [1, 2], {"previous": [-0.4, 0.2]})
    assert re.search(r">.0.5<|>.0.4<", axis)


@pytest.mark.parametrize("steps", [[], [2, 1], [1, 1]])
def test_steps_must_ascend(steps):
    with pytest.raises(ValueError, match="ascending order"):
        step_curves("iof", steps, {"object": [0.1] * len(steps)})


def test_each_curve_has_one_value_for_each_step():
    with pytest.raises(ValueError, match="one for each step"):
        step_curves("iof", [1, 2], {"object": [0.1]})
    with pytest.raises(ValueError, match="1 to 6 curves"):
        step_curves("iof", [1], {str(index): [0.1] for index in range(7)})


def test_labels_move_apart_by_hand():
    np.testing.assert_allclose(_spread(np.array([0.5, 0.5]), 0.2), [0.4, 0.6])
    np.testing.assert_allclose(_spread(np.array([0.9, np.nan, 0.1]), 0.2), [0.9, np.nan, 0.1])


@given(st.lists(st.floats(0, 1), max_size=6), st.floats(0, 0.3))
def test_labels_keep_their_order_and_distance(ends, least):
    spread = _spread(np.array(ends), least)
    assert (np.diff(np.array(ends)[np.argsort(spread)]) >= -1e-9).all()
