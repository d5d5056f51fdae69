import io
import json
import re

import numpy as np
import pytest
from rich.console import Console

from odsg_lightning.metrics.similarity import SIMILARITIES
from odsg_lightning.names import PARAMETERS
from odsg_lightning.sanity.check import DISTANCE, SanityCheck, Similarity
from odsg_lightning.sanity.outputs import sanity_figure, sanity_json, sanity_markdown, sanity_table, verdict
from odsg_lightning.viz.cascade import cascade_figure


def check(last=0.2, in_box=0.1, stages=("predictor", "stem")):
    def values(image, box):
        by_measure = {"spearman": image, "spearman_box": box, "ssim": 0.4}
        return {
            f"{measure}/{parameter}": Similarity(by_measure[measure], (by_measure[measure] - 0.125, 0.9), 20)
            for measure in SIMILARITIES
            for parameter in PARAMETERS
        }

    found = {"predictor": values(0.9, 0.8), "stem": values(last, in_box), DISTANCE: values(0.75, 0.3)}
    found["stem"]["spearman/x_min"] = Similarity(None, None, 0)
    return SanityCheck(16, 20, stages, found)


@pytest.mark.parametrize(
    ("last", "in_box", "text"),
    [
        (0.2, 0.1, "With the weights lost down to stem, every map has changed"),
        (0.5, 0.1, "FINDING: .* over the whole image for y_min, x_max, y_max, score, and below it in the box for all"),
        (0.8, 0.5, "FINDING: .* 0.5 or more in the box for x_min, y_min, x_max, y_max, score: these maps show"),
    ],
)
def test_the_verdict(last, in_box, text):
    assert re.match(text, verdict(check(last, in_box)))
    assert verdict(SanityCheck(0, 0, (), {})) == "Nothing was detected: there are no maps to compare."


def test_the_table_fits_a_terminal_of_80_columns_and_counts_what_is_undefined():
    stream = io.StringIO()
    Console(file=stream, width=80).print(sanity_table(check(), "smoothgrad on [a].ckpt"))
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "smoothgrad on [a].ckpt" in lines[0]
    stem = next(line for line in lines if "stem" in line)
    assert stem.replace("│", "").split() == ["stem", "-", "0.20", "0.20", "0.20", "0.20", "20"]
    assert sum("distance alone" in line for line in lines) == 3


def test_markdown_has_intervals_and_json_everything():
    text = sanity_markdown(check(), "a|b")
    assert text.startswith("## a&#124;b\n")
    assert "| stem | - | 0.20 [0.08, 0.90] | 0.20 [0.08, 0.90] | 0.20 [0.08, 0.90] | 0.20 [0.08, 0.90] | 20 |" in text
    assert text.count("| distance alone |") == 3
    content = json.loads(json.dumps(sanity_json(check(), {"seed": 0}), allow_nan=False))
    assert content["schema"] == "odsg-sanity/1"
    assert content["values"]["stem"]["spearman/x_min"] == {"mean": None, "interval": None, "n_objects": 0}
    assert content["values"][DISTANCE]["ssim/score"] == {"mean": 0.4, "interval": [0.275, 0.9], "n_objects": 20}
    assert content["unchanged"] == {"spearman": [], "spearman_box": []}


def test_the_figure_draws_every_curve():
    picture = sanity_figure(check())
    assert (picture.ndim, picture.dtype, picture.shape[2]) == (3, np.uint8, 3)
    assert picture.shape[1] > 3 * picture.shape[0]  # three panels
    assert (picture != 255).any(axis=2).mean() > 0.02
    assert not np.array_equal(picture, sanity_figure(check(0.9)))
    with pytest.raises(ValueError, match="curves of 2 values, one for each stage"):
        cascade_figure(["head", "stem"], {"one": {"x_min": [None]}}, 0.5)
