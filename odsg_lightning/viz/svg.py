"""How the figures of a page are drawn: quietly, and as SVG text that takes its colours from the page's style sheet."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {
    "paper": "#ffffff",
    "ink": "#1b2027",
    "muted": "#59616c",
    "rule": "#d5dae0",
    "series-1": "#2b5f9e",
    "series-2": "#b0451c",
    "series-3": "#2c7050",
    "series-4": "#7a4b9e",
    "series-5": "#80630a",
    "series-6": "#4d5664",
    "tint-1": "#d1deec",
    "tint-2": "#eed8d0",
    "tint-3": "#d2e2da",
    "tint-4": "#e3d9ec",
    "tint-5": "#e4dfcc",
    "tint-6": "#d9dbde",
}
"""Names of the style sheet's custom properties, and what is shown where there is none."""

N_SERIES = 6
HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----")
MARKERS = ("o", "s", "D", "^", "v", "P")
LINES = ("-", "--", "-.", ":", (0, (6, 1)), (0, (2, 2)))

_NAMES = {colour: name for name, colour in COLOURS.items()}
STYLE = {
    "font.size": 12,
    "text.color": COLOURS["ink"],
    "axes.edgecolor": COLOURS["rule"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": COLOURS["rule"],
    "grid.linewidth": 0.8,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "hatch.linewidth": 1.2,
}


@contextmanager
def panel(width: int, height: int, margins: tuple[int, int, int, int]) -> Iterator[tuple[Figure, Axes]]:
    """Yield an empty figure with one pair of axes, sized in CSS pixels.

    Args:
        width: of the figure.
        height: of the figure.
        margins: left, bottom, right and top of the axes. They are fixed, because text is set by the browser.
    """
    left, bottom, right, top = margins
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)  # 72 to the inch: SVG's points are then CSS pixels
        figure.patch.set_visible(False)
        area = (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
        axes = figure.add_axes(area)
        axes.patch.set_visible(False)
        yield figure, axes


def svg_text(figure: Figure, name: str, label: str) -> str:
    """Return a figure as an ``<svg>`` element, the same for the same figure; use it within :func:`panel`.

    Args:
        figure: drawn in :data:`COLOURS` only.
        name: put before the ids in it, so that figures of one page have different ones; letters, digits and ``-``.
        label: what a screen reader says of it.
    """
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = stream.getvalue()
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None  # matplotlib always writes one
    svg = svg[svg.index(">", svg.index("<svg")) + 1 :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)  # a style in a page holds for all of it
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"(font: ([\d.]+px) [^;\"]*|font-family: [^;\"]*; ?)", _page_font, svg)
    svg = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", svg)
    svg = re.sub(r'fill="(#[0-9a-f]{6})"', r'style="fill: \1"', svg)  # an attribute cannot take a custom property
    svg = re.sub(r"#[0-9a-f]{6}\b", _property, svg)
    label = label.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return f'<svg role="img" aria-label="{label}" {box[0]} stroke-linejoin="round">{svg}'


def series(index: int) -> tuple[str, str]:
    """Return the line colour and the lighter fill of a series; they repeat after :data:`N_SERIES`."""
    number = index % N_SERIES + 1
    return COLOURS[f"series-{number}"], COLOURS[f"tint-{number}"]


def _page_font(rule: re.Match[str]) -> str:
    """Keep the size of a text and leave its font to the page."""
    return "" if rule[2] is None else f"font-size: {rule[2]}"


def _property(colour: re.Match[str]) -> str:
    name = _NAMES.get(colour[0])
    return colour[0] if name is None else f"var(--{name}, {colour[0]})"
