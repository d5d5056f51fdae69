import re

import numpy as np

from odsg_lightning.viz.rows import distribution_rows


def ticks(svg):
    numbers = re.findall("<text[^>]*>\\s*([\u2212-]?\\d+(?:\\.\\d+)?)\\s*</text>", svg)
    return [float(number.replace("\u2212", "-")) for number in numbers]


def test_the_axis_has_0_to_1_and_what_lies_beyond():
    within = ticks(distribution_rows("a", "IOF", {"one": np.array([0.25, 0.5])}))
    assert (min(within), max(within)) == (0, 1)
    beyond = ticks(distribution_rows("a", "position", {"one": np.array([-1.25, 0.5]), "none": np.array([])}))
    assert min(beyond) <= -1
    assert max(beyond) == 1
