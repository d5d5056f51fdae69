import logging
from pathlib import Path

import pytest

from odsg_lightning.checkpoints.classes import classes_of_categories
from odsg_lightning.errors import BrokenInputError

MODEL = Path("model.ckpt")


def classes(categories, names, used=None, count=None):
    used = range(len(categories)) if used is None else used
    return classes_of_categories(categories, used, names, len(names) if names else count, MODEL)


def test_the_same_names_in_the_same_order_say_nothing(caplog):
    assert classes(["a", "b"], ["a", "b"]) == [0, 1]
    assert classes(["a", "b"], ["a", "b", "c"]) == [0, 1]
    assert classes(["a", "a"], ["a", "a"]) == [0, 1]
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("categories", "names", "expected"),
    [
        (["b", "a"], ["a", "b"], [1, 0]),
        (["c", "a"], ["a", "b", "c"], [2, 0]),
        (["b"], ["a", "b"], [1]),
        (["caf\u00e9", "a"], ["a", "cafe\u0301"], [1, 0]),
    ],
)
def test_another_order_or_a_part_is_matched_by_name_and_said(categories, names, expected, caplog):
    with caplog.at_level(logging.WARNING):
        assert classes(categories, names) == expected
    assert "they are matched by name (" in caplog.text
    assert f"{categories[0]}: class {expected[0]}" in caplog.text


def test_a_category_without_an_audited_object_need_not_be_known():
    assert classes(["objects", "a", "b"], ["a", "b"], used={1, 2}) == [-1, 0, 1]


@pytest.mark.parametrize(
    ("categories", "names", "message"),
    [
        (["a", "x"], ["a", "b"], r"it has no class \['x'\]. Its classes are \['a', 'b'\]"),
        (["A"], ["a", "b"], "it has no class"),
        (["b", "a"], ["a", "b", "b"], r"several are named \['b'\]"),
        (["b", "a", "a"], ["a", "b"], r"several are named \['a'\]"),
    ],
)
def test_what_cannot_be_matched_by_name_is_refused(categories, names, message):
    with pytest.raises(BrokenInputError, match=message):
        classes(categories, names)


def test_without_names_the_position_counts_and_is_said(caplog):
    assert classes(["a", "b"], None, count=80) == [0, 1]
    assert "model.ckpt does not say the names of its classes, of which there are 80" in caplog.text
    assert "['a', 'b']" in caplog.text
    assert classes(["a", "b"], None, count=None) == [0, 1]
    with pytest.raises(BrokenInputError, match=r"at least 2 classes, the number of .* but it has 1"):
        classes(["a", "b"], None, count=1)
