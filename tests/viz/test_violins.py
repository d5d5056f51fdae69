import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from odsg_lightning.viz.svg import HATCHES, LINES, MARKERS, N_SERIES
from odsg_lightning.viz.violins import MAX_VIOLINS, MIN_POINTS, _short, beside_one_another, iof_violins


def values(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).beta(3, 5, count)


def drawn(*counts: int, labels: str | None = None) -> str:
    found = [values(count, seed) for seed, count in enumerate(counts)]
    return iof_violins("x_min", {"edge": found}, list(labels or "ABCDEF"[: len(counts)]))


def test_it_is_an_svg_element_with_words_for_screen_readers():
    svg = iof_violins("x_min", {"edge": [np.full(6, 0.25), np.full(27, 0.5)], "object": [values(0), np.ones(5)]}, "AB")
    root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert root.get("role") == "img"
    assert root.get("aria-label") == "IOF of x_min, medians: edge A 0.25, B 0.50; object A none, B 1.00."


def test_the_same_values_give_the_same_text():
    assert drawn(20, 30) == drawn(20, 30)
    assert drawn(20, 30) != drawn(20, 31)


def heights(path: str) -> list[float]:
    return [float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", path)]


def test_a_violin_spans_its_values_the_bar_the_quartiles_and_the_mark_is_the_median():
    svg = iof_violins("x_min", {"edge": [np.repeat([0.0, 0.2, 0.5, 0.8, 1.0], 4)]}, ["A"])
    grid = re.findall(r'"M 34 ([\d.]+) \nL 336[^>]*stroke: var\(--rule', svg)[:5]
    zero, one = float(grid[0]), float(grid[-1])
    (body,) = re.findall(r'd="([^"]*)"[^>]*style="fill: var\(--tint-1', svg)
    assert (max(heights(body)), min(heights(body))) == (zero, one)
    (bar,) = re.findall(r'd="([^"]*)"[^>]*stroke-width: 3"', svg)
    assert heights(bar) == pytest.approx([zero + share * (one - zero) for share in (0.2, 0.8)], abs=0.02)
    (median,) = re.findall(r'<use [^>]*y="([\d.]+)" style="fill: var\(--paper', svg)
    assert float(median) == pytest.approx((zero + one) / 2, abs=0.02)


@pytest.mark.parametrize(("count", "points", "violins"), [(MIN_POINTS - 1, MIN_POINTS - 1, 0), (MIN_POINTS, 0, 1)])
def test_few_values_are_shown_as_points(count, points, violins):
    svg = drawn(count)
    assert len(re.findall(r'<use [^>]*style="fill: var\(--tint-1', svg)) == points
    assert len(re.findall(r'<path d="[^"]*"[^>]*style="fill: var\(--tint-1', svg)) == violins


def centres(svg: str, marker: str) -> list[tuple[float, float]]:
    places = re.findall(rf'<use [^>]*x="([\d.]+)" y="([\d.]+)" style="fill: var\(--{marker}', svg)
    return [(float(x), float(y)) for x, y in places]


def test_no_point_hides_another():
    # Points are 5 pixels broad: equal values overlap by a half at most.
    for of_audit, least in ((values(MIN_POINTS - 1), 4.9), (np.full(MIN_POINTS - 1, 0.4), 2.4)):
        points = np.array(centres(iof_violins("x_min", {"edge": [of_audit]}, ["A"]), "tint-1"))
        apart = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))[~np.eye(len(points), dtype=bool)]
        assert apart.min() > least


def test_where_there_is_no_room_points_still_stand_apart():
    aside = beside_one_another(np.full(MIN_POINTS - 1, 0.4), 6, 170, 5)
    assert len(set(aside.tolist())) == MIN_POINTS - 1
    assert np.abs(aside).max() < 6


def test_points_move_aside_by_hand():
    aside = beside_one_another(np.array([0.5, 0.5, 0.9, 0.5]), 10, 100, 4)
    np.testing.assert_array_equal(aside, [0, 4, 0, -4])


def test_few_values_have_a_line_at_their_median():
    svg = iof_violins("x_min", {"edge": [np.array([1.0, 0.0, 0.3])]}, ["A"])
    (line,) = re.findall(r'd="([^"]*)"[^>]*stroke-width: 2"', svg)
    lowest, middle, highest = sorted(y for _, y in centres(svg, "tint-1"))
    assert heights(line) == pytest.approx([middle, middle], abs=0.02)
    assert lowest < middle < highest


def test_the_number_of_values_stands_below_each_violin():
    svg = drawn(25, 3, 0)
    assert {text for text in re.findall(r">([^<]+)</text>", svg) if text.isdigit()} >= {"25", "3", "0"}
    assert [_short(count) for count in (999, 1000, 9999, 12345)] == ["999", "1.0k", "10.0k", "12k"]


def test_no_value_is_said_in_words():
    assert ">none<" in drawn(0)
    assert ">none<" not in drawn(1)


def test_equal_values_are_drawn():
    assert "nan" not in iof_violins("x_min", {"edge": [np.full(9, 0.4)]}, ["A"])


def test_audits_are_told_apart_without_colour():
    svg = drawn(*[20] * N_SERIES)
    assert len(set(re.findall(r'<pattern id="([^"]*)"', svg))) == N_SERIES - 1  # the first is plain
    assert all(f">{letter}<" in svg for letter in "ABCDEF")
    assert len(set(HATCHES)) == len(set(MARKERS)) == len(set(map(str, LINES))) == N_SERIES


def test_one_audit_needs_no_letter():
    assert ">A<" not in drawn(20)


def test_ids_begin_with_the_figures_name():
    svg = iof_violins("x_min", {region: [values(20), values(3), values(20)] for region in ("edge", "object")}, "ABC")
    ids = re.findall(r'id="([^"]*)"', svg)
    assert ids
    assert all(name.startswith("violin-x_min-") for name in ids)
    assert len(set(ids)) == len(ids)


def test_it_takes_fonts_and_colours_from_the_page():
    svg = drawn(20, 3, 0)
    assert "DejaVu" not in svg
    assert "<style" not in svg
    assert not re.findall(r"(?<!, )#[0-9a-f]{6}", svg)


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="one for each label, but got 1 labels"):
        iof_violins("x_min", {"edge": [values(3), values(3)]}, ["A"])
    with pytest.raises(ValueError, match=f"1 to {MAX_VIOLINS} audits"):
        iof_violins("x_min", {"edge": [values(3)] * (MAX_VIOLINS + 1)}, list("ABCDEFG"))
