from dataclasses import replace

import pytest
from helpers.records import as_missed, dropped, make_record, with_rows, write_with_maps

from odsg_lightning.report import gallery
from odsg_lightning.report.audits import read_audits
from odsg_lightning.report.gallery import cards, status_words


def test_the_largest_drop_comes_first_and_a_lost_value_counts_as_zero(audits):
    found = cards(audits, 0)
    changes = [card.change for card in found]
    assert changes == sorted(changes)
    before, after = (audit.record.by_key for audit in audits)
    for card in found:
        was, now = before[card.row.key].object_iof, after[card.row.key].object_iof or 0.0
        assert card.change == pytest.approx(now - was)
    assert {card.row.annotation_id for card in found[:2]} == {5, 7}  # missed, and without any map


def test_of_one_record_the_lowest_iof_comes_first_and_missed_objects_last(tmp_path):
    path = tmp_path / "a.json"
    write_with_maps(make_record(8, missed=0.3), path)
    found = cards(read_audits([path]), 5)
    values = [card.iof for card in found if card.iof is not None]
    assert values == sorted(values)
    assert found[-1].iof is None
    assert all(card.change is None for card in found)


def test_statuses_that_a_filter_asks_for(audits):
    statuses = {card.row.annotation_id: card.statuses for card in cards(audits, 0)}
    assert statuses[5] == ["missed", "newly-missed"]
    assert statuses[6] == statuses[7] == ["undefined"]
    assert statuses[1] == []
    assert [card.statuses for card in cards([audits[1]], 0) if card.row.annotation_id == 5] == [["missed"]]


def test_status_in_words(audits):
    rows = {row.annotation_id: row for row in audits[1].record.objects}
    assert status_words(rows[1]) == "detected"
    assert status_words(rows[5]) == "missed"
    assert status_words(rows[6]) == "undefined: x_min"
    assert status_words(None) == "not audited"


def test_an_object_that_only_one_record_knows_is_listed(audits):
    first, last = audits
    less = replace(first, record=replace(first.record, objects=first.record.objects[1:]))
    (card,) = [card for card in cards([less, last], 0) if card.rows[0] is None]
    assert card.row == last.record.objects[0]
    assert card.change is None


def test_the_baselines_picture_stands_above_the_candidates(audits):
    found = {card.row.annotation_id: card for card in cards(audits, 100)}
    assert [strip.letter for strip in found[1].strips] == ["A", "B"]
    assert [strip.letter for strip in found[5].strips] == ["A"]  # B missed it
    (row,) = found[1].strips[0].rows  # a plain picture is no strip, and stays whole
    assert (row.width, row.height) == (110, 28)
    assert row.alt.startswith("before: cat, photograph and saliency maps")
    assert "x_min undefined" in found[6].strips[1].rows[0].alt


def test_only_the_worst_get_pictures(audits):
    found = cards(audits, 3)
    assert [bool(card.strips) for card in found] == [True] * 3 + [False] * 13
    assert [card.left_out for card in found] == [False] * 3 + [True] * 13


def test_pictures_end_where_the_page_would_become_too_large(audits, monkeypatch):
    size = sum(strip.size for strip in cards(audits, 1)[0].strips)
    monkeypatch.setattr(gallery, "MAX_PICTURE_BYTES", 2 * size)
    found = cards(audits, 100)
    assert 0 < sum(bool(card.strips) for card in found) < 3
    assert sum(strip.size for card in found for strip in card.strips) <= 2 * size


def test_without_maps_nothing_is_left_out_for_its_size(audits):
    bare = [replace(audit, maps=None) for audit in audits]
    assert not any(card.left_out or card.strips for card in cards(bare, 0))


def test_three_records_show_the_pictures_of_first_and_last(tmp_path):
    record = make_record(3, missed=0.0)
    paths = [tmp_path / f"{name}.json" for name in "abc"]
    for index, path in enumerate(paths):
        write_with_maps(dropped(record, 0.1 * index), path)
    card = cards(read_audits(paths), 9)[0]
    assert [strip.letter for strip in card.strips] == ["A", "C"]
    assert card.change == pytest.approx(-0.2, abs=0.05)


def test_an_object_missed_by_both_is_the_end_of_the_list(audits):
    gone = audits[0].record.objects[0].key
    both = [
        replace(one, record=with_rows(one.record, lambda row: as_missed(row) if row.key == gone else row))
        for one in audits
    ]
    assert cards(both, 0)[-1].row.key == gone
