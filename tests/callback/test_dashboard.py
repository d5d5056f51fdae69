"""What TensorBoard gets besides scalars and pictures, read back from its files."""

import html
import re
from dataclasses import replace

import pytest
from helpers.known_detectors import box_sample
from helpers.known_module import TWO, DriftingModule, KnownModule, known_audit
from helpers.records import as_missed, make_record
from helpers.runs import read_events, trainer_with
from lightning.pytorch.loggers import CSVLogger
from markdown import markdown
from tensorboard.plugin_util import markdown_to_safe_html
from tensorboard.plugins.custom_scalar import layout_pb2

from odsg_lightning.callback.charts import recall_by_category
from odsg_lightning.text import plain

NASTY = "<b>cat</b>|*x*\n[a](javascript:alert(1))"


def layouts(events):
    """The layouts, one for each time it was written."""
    return [
        layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
        for event in events.Tensors("custom_scalars__config__")
    ]


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dashboard")
    sample = replace(box_sample(TWO, [0, 1]), category_names=(NASTY, "dog"))
    trainer_with([known_audit(audit_samples=[sample])], folder).fit(DriftingModule())
    return read_events(folder)


def charts_of(layout):
    """The charts by row and title."""
    return {(row.title, chart.title): list(chart.multiline.tag) for row in layout.category for chart in row.chart}


def test_custom_scalars_are_laid_out_once_and_name_what_is_logged(events):
    (layout,) = layouts(events)
    rows = [row.title for row in layout.category]
    on_thirds = "box maps: share on each third of the object"
    assert rows[:2] == ["occlusion", on_thirds]
    assert rows[3:8] == ["x_min", "y_min", "x_max", "y_max", "score"]
    drifts = ["drift from the audit before", "drift from the reference", "drift by noise alone"]
    assert rows[8:] == [*drifts, "audit", "recall by category"]
    titles = [chart.title for chart in layout.category[1].chart]
    assert titles == ["edge", "middle", "opposite", "recall"]
    charts = charts_of(layout)
    assert charts["occlusion", "necessity"] == [r"^occlusion/necessity$"]
    assert charts["x_max", "opposite"] == [r"^iof/x_max/opposite$"]
    assert charts["score", "near"] == [r"^iof/score/near$"]
    assert charts["drift from the reference", "ssim"] == [r"^drift_ref/ssim$"]


def test_each_chart_has_one_curve_and_there_is_one(events):
    """Several would have one colour in a run."""
    logged = events.Tags()["scalars"]
    for title, tags in charts_of(layouts(events)[0]).items():
        (tag,) = tags
        assert len([name for name in logged if re.match(tag, name)]) == 1, title


def test_recall_of_each_category_is_a_curve_whatever_its_name(events):
    names = [chart.title for chart in layouts(events)[0].category[-1].chart]
    assert names == [plain(NASTY), "dog"]
    for name in names:
        assert [(event.step, event.value) for event in events.Scalars(f"audit/recall/{name}")] == [(1, 1), (3, 1)]


def test_recall_by_category_counts_missed_objects_and_leaves_out_the_rarest():
    rows = make_record(n_images=2, missed=0).objects
    assert [row.category for row in rows] == ["cat", "dog"] * 3
    assert recall_by_category([as_missed(rows[0]), *rows[1:]]) == {"cat": pytest.approx(2 / 3), "dog": 1}
    many = [replace(row, category=f"{number:02d}") for number in range(30) for row in rows[: 1 + (number > 20)]]
    assert list(recall_by_category(many)) == [f"{number:02d}" for number in (*range(15), *range(21, 30))]


def test_histograms_of_the_objects_at_the_step_of_the_scalars(events):
    tags = [tag for tag in events.Tags()["histograms"] if tag.startswith("iof_objects/")]
    of_maps = ("object", "near", "x_min", "y_min", "x_max", "y_max", "score")
    assert sorted(tags) == sorted(f"iof_objects/{name}" for name in of_maps)
    hidden = [tag for tag in events.Tags()["histograms"] if tag.startswith("scores_hidden/")]
    assert {tag.split("/")[1] for tag in hidden} == {"sufficiency", "necessity"}
    for tag in tags + hidden:
        assert [event.step for event in events.Histograms(tag)] == [1, 3]
        assert all(event.histogram_value.num == 2 for event in events.Histograms(tag))


def test_summary_is_text_in_which_a_name_is_only_a_name(events):
    texts = events.Tensors("audit/summary/text_summary")
    assert [event.step for event in texts] == [1, 3]
    text = texts[0].tensor_proto.string_val[0].decode()
    assert "2 of 2 objects detected" in text
    assert "&#60;b&#62;cat" in text
    assert "<b>" not in text
    assert "<a" not in markdown(text, extensions=["tables"])  # no link, before anything is made safe
    shown = markdown_to_safe_html(text)
    # No cell of a table was broken: the means, the objects detected although they are hidden, and the worst.
    assert shown.count("<tr>") == (1 + 6) + (1 + 2) + (1 + 2)
    assert f"<td>{plain(NASTY)}, image 1, annotation 1</td>" in html.unescape(shown)


def test_other_loggers_are_left_in_peace(tmp_path):
    audit = known_audit()
    trainer_with([audit], logger=CSVLogger(tmp_path)).fit(KnownModule())
    assert audit.n_failed == 0
    assert not list(tmp_path.rglob("*tfevents*"))


def test_nothing_detected_has_no_histogram_and_without_drift_no_chart_of_it(tmp_path):
    trainer_with([known_audit(drift=False)], tmp_path).fit(KnownModule(scores=(0.1, 0.1)))
    events = read_events(tmp_path)
    assert events.Tags()["histograms"] == []
    (layout,) = layouts(events)
    assert not [row.title for row in layout.category if "drift" in row.title]


def test_without_occlusion_there_is_neither_chart_nor_histogram_of_it(tmp_path):
    trainer_with([known_audit(occlusion=False)], tmp_path).fit(KnownModule())
    events = read_events(tmp_path)
    assert not [tag for tag in events.Tags()["histograms"] if tag.startswith("scores_hidden/")]
    (layout,) = layouts(events)
    assert "occlusion" not in [category.title for category in layout.category]
    text = events.Tensors("audit/summary/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "sufficiency" not in text
    assert "IOF near" not in text


def test_a_logger_that_fails_costs_the_pictures_only(monkeypatch, tmp_path):
    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_histogram", broken)
    audit = known_audit()
    trainer = trainer_with([audit], tmp_path)
    with pytest.warns(RuntimeWarning, match="Its numbers are logged, its pictures are not"):
        trainer.fit(KnownModule())
    assert trainer.callback_metrics["iof/object"] == 1
    assert audit.n_failed == 0
