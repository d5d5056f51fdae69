import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from odsg_lightning.viz.svg import HATCHES, LINES, MARKERS, N_SERIES
from odsg_lightning.viz.violins import MAX_VIOLINS, MIN_POINTS, iof_violins


def values(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).beta(3, 5, count)


def drawn(*counts: int, labels: str | None = None) -> str:
    found = [values(count, seed) for seed, count in enumerate(counts)]
    return iof_violins("x_min", {"edge": found}, list(labels or "ABCDEF"[: len(counts)]))


def test_it_is_an_svg_element_with_words_for_screen_readers():
    svg = iof_violins("x_min", {"edge": [np.full(6, 0.25), np.full(7, 0.5)], "object": [values(0), np.ones(5)]}, "AB")
    root = ElementTree.fromstring(svg.replace("xlink:href", "href"))
    assert root.get("role") == "img"
    assert root.get("aria-label") == "IOF of x_min, medians: edge A 0.25, B 0.50; object A none, B 1.00."


def test_the_same_values_give_the_same_text():
    assert drawn(20, 30) == drawn(20, 30)
    assert drawn(20, 30) != drawn(20, 31)


def heights(path: str) -> list[float]:
    return [float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", path)]


def test_a_violin_spans_its_values_the_bar_the_quartiles_and_the_mark_is_the_median():
    svg = iof_violins("x_min", {"edge": [np.array([0.0, 0.2, 0.5, 0.8, 1.0])]}, ["A"])
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
