"""What TensorBoard gets besides scalars and pictures, read back from its files."""

import html
import math
from dataclasses import replace

import numpy as np
import pytest
from helpers.known_detectors import box_sample
from helpers.known_module import TWO, DriftingModule, KnownModule, known_audit
from helpers.records import as_missed, as_undefined, make_record
from helpers.runs import EVERY_TAG, read_events, trainer_with
from lightning.pytorch.loggers import CSVLogger
from markdown import markdown
from tensorboard.plugin_util import markdown_to_safe_html
from tensorboard.plugins.custom_scalar import layout_pb2

from odsg_lightning.callback.dashboard import summary
from odsg_lightning.records.means import audit_means
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


def test_custom_scalars_are_laid_out_once_and_name_what_is_logged(events):
    (layout,) = layouts(events)
    charts = {(c.title, chart.title): list(chart.multiline.tag) for c in layout.category for chart in c.chart}
    categories = list(dict.fromkeys(category for category, _ in charts))
    assert categories == [
        "occlusion",
        "near and object",
        "edge against middle",
        "leaning to the edge",
        "drift",
        "recall",
    ]
    occlusion = charts["occlusion", "sufficiency and necessity"]
    assert occlusion == ["^occlusion/sufficiency$", "^occlusion/necessity$"]
    assert charts["near and object", "box mean"] == ["^iof/near$", "^iof/object$"]
    assert charts["near and object", "score"] == ["^iof/score/near$", "^iof/score/object$"]
    assert charts["edge against middle", "x_max"] == ["^iof/x_max/edge$", "^iof/x_max/middle$"]
    assert charts["leaning to the edge", "position"][-1] == "^position/mean$"
    assert charts["drift", "ssim"] == ["^drift/ssim$", "^drift_ref/ssim$", "^drift_noise/ssim$"]
    assert {tag.strip("^$") for tags in charts.values() for tag in tags} <= EVERY_TAG


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
    categories = [category.title for category in layout.category]
    assert categories == ["occlusion", "near and object", "edge against middle", "leaning to the edge", "recall"]


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


class TestSummary:
    def text(self, record, lost=()):
        means = audit_means(record.objects)
        logged = {name: math.nan if value is None else value for name, value in means.items()}
        return summary(record.objects, logged, lost)

    def rows_after(self, text, title):
        lines = text.split(title)[1].strip().splitlines()
        return lines[2:]  # below the table's header

    def test_worst_first(self):
        record = make_record(n_images=4)
        text = self.text(record)
        rows = [line for line in self.rows_after(text, "**Least on the object**") if line.startswith("|")]
        values = [float(line.split("|")[2]) for line in rows]
        detected = [row.object_iof for row in record.objects if not row.missed]
        assert values == pytest.approx(sorted(detected)[:5], abs=0.005)

    def test_objects_whose_detection_does_not_stand_on_them_come_first(self):
        rows = [
            replace(row, occlusion={"sufficiency": sufficiency, "necessity": necessity})
            for row, (sufficiency, necessity) in zip(
                make_record(n_images=2, missed=0).objects,
                [(1.0, 1.0), (0.25, 1.0), (None, 0.0), (0.0, 1.0), (0.5, 0.5), (1.0, None)],
                strict=True,
            )
        ]
        text = self.text(replace(make_record(n_images=2, missed=0), objects=tuple(rows)))
        assert "sufficiency 0.55, necessity 0.70, defined 1.00" in text.splitlines()[0]
        assert "**Lost with all else hidden**: 2 of 5" in text
        assert "**Detected with the object hidden**: 1 of 5" in text
        named = [line.split("|")[1:3] for line in self.rows_after(text, "all else hidden**: 2 of 5")[:2]]
        assert [[cell.strip() for cell in line] for line in named] == [
            ["dog, image 2, annotation 4", "0.00"],
            ["dog, image 1, annotation 2", "0.25"],
        ]
        assert text.index("**Lost") < text.index("**Detected with") < text.index("| IOF |") < text.index("**Least")

    def test_what_is_sound_is_not_listed(self):
        record = make_record(n_images=2, missed=0)
        rows = tuple(replace(row, occlusion={"sufficiency": 1.0, "necessity": 0.5}) for row in record.objects)
        text = self.text(replace(record, objects=rows))
        assert "**Lost" not in text
        assert "hidden" not in text

    def test_missed_since_and_undefined_are_named(self):
        record = make_record(n_images=2, missed=0)
        rows = list(record.objects)
        rows[1], rows[2] = as_missed(rows[1]), as_undefined(rows[2], ["x_max", "score"])
        text = self.text(replace(record, objects=tuple(rows)), lost=[rows[1].key])
        assert "5 of 6 objects detected" in text
        assert "**Missed since the audit before**: dog, image 1, annotation 2" in text
        assert "**Undefined maps**: cat, image 1, annotation 3 (x_max, score)" in text

    def test_long_lists_are_cut(self):
        record = make_record(n_images=20)
        rows = tuple(as_missed(row) for row in record.objects)
        text = self.text(replace(record, objects=rows))
        assert "**Missed**: cat, image 1, annotation 1;" in text
        assert "; and 40 more" in text
        assert "nan" not in text

    def test_means_are_those_that_are_logged(self):
        record = make_record(n_images=3, missed=0)
        edge = np.mean([row.iof["y_min/edge"] for row in record.objects])
        line = next(line for line in self.text(record).splitlines() if line.startswith("| y_min"))
        assert float(line.split("|")[2]) == pytest.approx(edge, abs=0.0051)
