"""Means, intervals, marks and notes of comparisons made up by hand."""

import json
import subprocess
import sys

import numpy as np
from helpers.comparisons import checkpoint_result, comparison, image_result

from odsg_lightning.comparison.result import CheckpointResult, ImageResult, comparison_json
from odsg_lightning.comparison.summary import summary
from odsg_lightning.comparison.tables import markdown_text, notes, terminal_table


def result_of(values, **settings):
    """A checkpoint with one object for each position of the explainers' values."""
    rows = [dict(zip(values, of_object, strict=True)) for of_object in zip(*values.values(), strict=True)]
    return checkpoint_result([image_result(index, row) for index, row in enumerate(rows)], **settings)


def best(result, key="iof"):
    return {row.name for row in summary(result) if row.cells[key].best}


NOISE = np.random.default_rng(0).normal(0, 0.05, 30).round(6).tolist()


def test_means_counts_and_seconds_by_hand():
    (row,) = summary(result_of({"odam": [0.0, 1.0, None, 0.5]}))
    cell = row.cells["iof"]
    assert (cell.mean, cell.count, cell.interval) == (0.5, 3, None)  # too few images for an interval
    assert (row.objects, row.maps, row.undefined, row.seconds) == (4, 20, 4, 0.5)


def test_the_interval_is_that_of_whole_images():
    values = [0.0, 1.0] * 10
    by_image = checkpoint_result([image_result(index // 2, {"a": value}) for index, value in enumerate(values)])
    by_object = checkpoint_result([image_result(index, {"a": value}) for index, value in enumerate(values)])
    assert summary(by_image)[0].cells["iof"].interval == (0.5, 0.5)  # each image holds one of each
    low, high = summary(by_object)[0].cells["iof"].interval
    assert 0.25 <= low <= 0.35
    assert 0.65 <= high <= 0.75


def test_the_best_is_marked_only_where_the_intervals_say_so():
    clear = {"a": [0.8 + noise for noise in NOISE], "b": [0.6 - noise for noise in NOISE], "c": NOISE}
    assert best(result_of(clear)) == {"a"}
    assert best(result_of(clear), "odi") == {"c"}  # lower is better
    assert best(result_of(clear), "ties") == set()  # neither is
    close = {"a": [0.6 + noise for noise in NOISE], "b": [0.601 - noise for noise in NOISE]}
    assert best(result_of(close)) == set()
    assert best(result_of({name: values[:4] for name, values in clear.items()})) == set()  # too few images
    assert best(result_of({"a": clear["a"]})) == set()  # than whom?


def test_a_paired_difference_can_be_clear_where_the_intervals_overlap():
    spread = [0.2, 0.8] * 15
    pair = {"a": [value + 0.05 + 0.01 * noise for value, noise in zip(spread, NOISE, strict=True)], "b": spread}
    result = result_of(pair)
    first, second = (row.cells["iof"].interval for row in summary(result))
    assert first[0] < second[1]
    assert best(result) == {"a"}


def test_the_same_maps_are_marked_together():
    high = [0.8 + noise for noise in NOISE]
    assert best(result_of({"odam": high, "det_grad_cam": high, "c": NOISE})) == {"odam", "det_grad_cam"}


def test_values_are_compared_where_both_have_one():
    half = [0.9 if index % 2 else None for index in range(30)]
    assert best(result_of({"a": half, "b": [0.6 - noise for noise in NOISE]})) == {"a"}
    other = [None if index % 2 else 0.1 for index in range(30)]
    assert best(result_of({"a": half, "b": other})) == set()  # they have no object in common


def test_markdown_has_every_group_and_marks_the_best():
    found = result_of({"odam": [0.8 + noise for noise in NOISE], "d_rise": NOISE})
    text = markdown_text(comparison(found), [summary(found)])
    line = next(line for line in text.splitlines() if line.startswith("| odam"))
    assert line.count("**") == 2 * 5  # five columns but ties, where higher is better
    assert "### Maps of the box" in text
    assert "| d_rise | 30 | 30 | 30 | 0.50 |" in text
    assert "CPU s/object" in text


def test_markdown_escapes_names_of_unknown_origin():
    found = checkpoint_result([image_result(1, {"odam": 0.5})], name="<b>|x.ckpt")
    text = markdown_text(comparison(found), [summary(found)])
    assert "<b>" not in text
    assert "|x" not in text


def test_the_table_in_the_terminal_has_80_columns():
    from rich.console import Console

    found = result_of({"smoothgrad (output)": [1.0] * 30, "contrastive_lrp": [0.5] * 30})
    console = Console(width=200, record=True)
    with console.capture() as captured:
        console.print(terminal_table(comparison(found), found, summary(found)))
    assert max(map(len, (line.rstrip() for line in captured.get().splitlines()))) <= 80


def test_what_is_left_out_is_in_no_table_but_in_a_note():
    images = [image_result(1, {"odam": 0.5}), image_result(2, {"odam": 0.5, "lrp": 0.2}, left_out={})]
    images[0] = image_result(1, {"odam": 0.5}, left_out={"lrp": "it has a group norm."})
    found = checkpoint_result(images, explainers=["odam", "lrp"])
    assert [row.name for row in summary(found)] == ["odam"]
    assert notes(comparison(found), found) == ["Left out: lrp. it has a group norm."]


def test_notes_say_what_has_no_values():
    found = result_of({"odam": [0.5], "d_rise": [0.5]})
    assert notes(comparison(found, steps=None), found) == [
        "No maps of the box, so no values of them: d_rise.",
        "No pixels were hidden, so there are no values of deletion and insertion.",
    ]


def test_nothing_detected_is_said():
    empty = CheckpointResult("m.ckpt", "0", (ImageResult(1, (), (5, 6)),), {"odam": "ODAM()"}, {"odam": ("score",)})
    found = comparison(empty)
    text = markdown_text(found, [summary(empty)])
    assert "No object was detected, of 2 annotated ones in 1 images" in text
    assert "scores above 0.5" in text
    assert json.loads(comparison_json(found))["checkpoints"][0]["missed"] == [[1, 5], [1, 6]]


def test_json_keeps_every_object_and_the_seconds_apart():
    found = result_of({"odam": [0.5, None]})
    content = json.loads(comparison_json(comparison(found)))
    assert list(content)[-1] == "seconds"
    assert content["seconds"] == {"clock": "processor", "per_object": [{"odam": 0.5}]}
    assert "seconds" not in json.dumps(content["checkpoints"])
    assert [one["values"]["odam"]["iof"] for one in content["checkpoints"][0]["objects"]] == [0.5, None]


def test_no_torch_is_loaded_by_what_only_reads_results():
    names = ("measures", "result", "parts", "summary", "tables", "page")
    modules = ", ".join(f"odsg_lightning.comparison.{name}" for name in names)
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=600).returncode == 0
