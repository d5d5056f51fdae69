"""An audit for people to read."""

import math
from dataclasses import replace

import numpy as np
import pytest
from helpers.records import as_missed, as_undefined, make_record

from odsg_lightning.callback.summary import WORST_COLUMNS, summary, worst_objects
from odsg_lightning.records.means import audit_means


def judged(row, sufficiency, necessity):
    return replace(row, occlusion={"sufficiency": sufficiency, "necessity": necessity})


class TestWorstObjects:
    def test_an_object_is_as_bad_as_its_lowest_value(self):
        rows = make_record(n_images=1, missed=0).objects
        near = [row.box_mean("near") for row in rows]
        assert all(value > 0.3 for value in near)
        table = worst_objects([judged(rows[0], 1.0, 0.2), judged(rows[1], 0.1, 1.0), judged(rows[2], None, 0.0)])
        assert [cells[2] for cells in table] == [rows[2].annotation_id, rows[1].annotation_id, rows[0].annotation_id]
        first = dict(zip(WORST_COLUMNS, table[0], strict=True))
        assert (first["sufficiency"], first["necessity"]) == (None, 0.0)
        assert first["IOF near"] == pytest.approx(near[2], abs=5e-4)
        assert first["score"] == pytest.approx(rows[2].score, abs=5e-4)

    def test_what_was_missed_or_has_no_value_is_left_out_and_the_rest_cut(self):
        rows = [judged(row, 0.5, 0.5) for row in make_record(n_images=9, missed=0).objects]
        assert len(rows) > 21
        assert len(worst_objects(rows)) == 20
        assert worst_objects([as_missed(row) for row in rows]) == []
        nothing = replace(rows[0], iof=dict.fromkeys(rows[0].iof), occlusion={})
        assert worst_objects([nothing, rows[1]])[0][2] == rows[1].annotation_id


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
