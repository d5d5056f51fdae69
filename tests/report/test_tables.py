from dataclasses import replace

from helpers.records import as_missed, make_record, with_rows

from odsg_lightning.report.changes import DASH
from odsg_lightning.report.numbers import Numbers
from odsg_lightning.report.tables import category_rows, summary_rows


def texts(cells):
    return {cell.title: (cell.values, cell.change.judgement if cell.change else None) for cell in cells}


def with_values(record, category, near, sufficiency):
    def changed(row):
        if row.category != category:
            return row
        iof = {name: near if name.endswith("/near") else 0.5 for name in row.iof}
        return replace(row, iof=iof, occlusion={"sufficiency": sufficiency, "necessity": None})

    return with_rows(record, changed)


def test_a_category_by_hand():
    record = make_record(2, 4, missed=0.0, categories=("cat", "dog"))
    before = with_values(record, "cat", 0.9, 1.0)
    after = with_values(record, "cat", 0.8, 0.5)
    gone = next(row.key for row in after.objects if row.category == "cat")
    after = with_rows(after, lambda row: as_missed(row) if row.key == gone else row)
    rows = category_rows([Numbers(before), Numbers(record), Numbers(after)])
    assert list(rows) == ["cat", "dog"]
    assert texts(rows["cat"]) == {
        "Objects": (["4", "4"], ""),
        "Detected": (["4", "3"], "worse"),
        "Recall": (["1.000", "0.750"], "worse"),
        "Near IOF": (["0.900", "0.800"], "worse"),
        "Object IOF": (["0.500", "0.500"], ""),
        "Sufficiency": (["1.000", "0.500"], "worse"),
        "Necessity": ([DASH, DASH], ""),
    }
    assert {judgement for _, judgement in texts(rows["dog"]).values()} == {""}


def test_one_record_has_one_value_and_no_change():
    rows = category_rows([Numbers(make_record(2, 2, missed=0.0))])
    assert {(len(cell.values), cell.change) for cells in rows.values() for cell in cells} == {(1, None)}


def test_a_category_that_one_record_lacks_is_listed():
    before, after = make_record(2, categories=("cat",)), make_record(2, categories=("cow",))
    rows = category_rows([Numbers(before), Numbers(after)])
    assert list(rows) == ["cat", "cow"]
    assert texts(rows["cow"])["Objects"][0] == ["0", "6"]
    assert texts(rows["cow"])["Near IOF"][0][0] == DASH


def test_what_a_trainer_did_not_log_is_left_out_of_the_summary():
    bare = Numbers(make_record(2))
    assert "Drift" not in summary_rows([bare, bare])
    logged = Numbers(replace(bare.record, metrics={"drift/x_min/pearson": 0.2, "val/map": 0.5}))
    rows = {row.measure.name: row for group in summary_rows([bare, logged]).values() for row in group}
    assert rows["Previous audit"].values == [DASH, "0.200"]
    assert "AP" in rows
    assert "AP50" not in rows
