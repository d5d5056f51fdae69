import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers.hostile import HOSTILE, hostile_record
from helpers.records import make_record, write_with_maps

from odsg_lightning.errors import UserInputError
from odsg_lightning.records.record import write_record
from odsg_lightning.report import templating
from odsg_lightning.report.audits import read_audits
from odsg_lightning.report.numbers import Numbers
from odsg_lightning.report.page import build_page
from odsg_lightning.viz.svg import COLOURS

MINUS = "\N{MINUS SIGN}"
VOID = {"meta", "img", "input", "br", "link", "hr", "wbr"}


class Outline(HTMLParser):
    """Checks that elements are closed in order, and keeps them."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag):
        return [attributes for found, attributes in self.elements if found == tag]


@pytest.fixture(scope="module")
def html(audits):
    return build_page(audits)


def test_the_same_records_give_the_same_page(audits, html):
    assert build_page(audits) == html


def test_the_page_is_well_formed_and_can_be_navigated(html):
    outline = Outline(html)
    assert html.startswith("<!DOCTYPE html>\n<html lang=")
    assert len(outline.all("h1")) == len(outline.all("main")) == 1
    assert all(cell.get("scope") in ("row", "col", "rowgroup") for cell in outline.all("th"))
    assert all(picture.get("alt") for picture in outline.all("img"))
    ids = [attributes["id"] for _, attributes in outline.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    targets = [link["href"] for link in outline.all("a")]
    assert targets
    assert {target.removeprefix("#") for target in targets} <= set(ids)
    references = [
        attributes["aria-labelledby"] for _, attributes in outline.elements if "aria-labelledby" in attributes
    ]
    assert set(references) <= set(ids)


def test_nothing_is_loaded_from_elsewhere(html):
    addresses = [
        value
        for _, attributes in Outline(html).elements
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset")
    ]
    assert addresses
    assert all(address.startswith(("#", "data:image/webp;base64,")) for address in addresses)
    assert "@import" not in html
    assert not re.findall(r"url\((?!#)", html)


def cells(html, row):
    """The texts of a row's cells, without what only says them again."""
    (found,) = re.findall(rf'<span class="term">{row}</span>.*?</th>(.*)</tr>', html)
    return [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", found)]


def test_the_summary_says_what_the_records_hold(html):
    assert cells(html, "Recall") == ["1.000", "0.938", f"▼ {MINUS}0.062 worse"]
    assert cells(html, "AP50") == ["0.900", "0.950", "▲ +0.050 better"]
    assert cells(html, "Objects") == ["16", "16", "0"]


def test_fewer_missed_and_undefined_are_better(audits, html):
    assert cells(html, "Missed") == ["0", "1", "▲ +1 worse"]
    assert cells(html, "Undefined maps") == ["0", "5", "▲ +5 worse"]
    back = build_page(audits[::-1], 0)
    assert cells(back, "Missed") == ["1", "0", f"▼ {MINUS}1 better"]
    assert cells(back, "Recall")[2] == "▲ +0.062 better"


def test_the_middle_and_the_far_third_are_not_judged(html):
    assert cells(html, "Middle IOF")[2].startswith("▼")
    assert not cells(html, "Middle IOF")[2].endswith("worse")
    assert not cells(html, "Opposite IOF")[2].endswith("worse")
    assert cells(html, "Edge IOF")[2].endswith("worse")


def test_the_summary_has_the_evidence_of_hidden_pixels_and_of_the_maps(audits, html):
    names = ("Sufficiency", "Necessity", "Near IOF", "Defined maps", "Relevance mass", "Pointing game")
    assert all(len(cells(html, name)) == 3 for name in names)
    assert cells(html, "Sufficiency")[0] == f"{Numbers(audits[0].record).means['occlusion/sufficiency']:.3f}"
    assert cells(html, "Foreground area") == ["0.800", "0.800", "0.000"]


def told_of_masks(audits, *masks):
    return [
        replace(one, record=replace(one.record, fingerprint={**one.record.fingerprint, "masks": kind}))
        for one, kind in zip(audits, masks, strict=True)
    ]


def test_it_says_box_where_masks_are_boxes(audits):
    boxes = build_page(told_of_masks(audits, "box", "box"))
    assert "An object is its box here" in boxes
    assert "the object: its whole box<" in boxes
    assert "An object is its segmentation." in build_page(told_of_masks(audits, "segmentation", "segmentation"), 0)
    for unclear in (audits, told_of_masks(audits, "box", "segmentation"), told_of_masks(audits, ["box"], ["box"])):
        assert "An object is its segmentation, or its whole box" in build_page(unclear, 0)


def test_long_names_break_behind_separators():
    assert templating._breaks("a/b_c-1.2<x>.jpg") == "a/<wbr>b_<wbr>c-<wbr>1.<wbr>2&lt;x&gt;.<wbr>jpg"
    assert templating._breaks("&-&amp;") == "&amp;-<wbr>&amp;amp;"
    assert templating._breaks("../a_") == "../<wbr>a_"


def test_average_precision_is_left_out_where_no_record_has_it(audits, html):
    bare = [replace(audit, record=replace(audit.record, metrics={})) for audit in audits]
    assert '<span class="term">AP50' in html
    assert '<span class="term">AP' not in build_page(bare, 0)


def test_records_of_different_settings_are_called_not_comparable(audits, html):
    fingerprint = {**audits[1].record.fingerprint, "sigma": 0.1}
    other = replace(audits[1], record=replace(audits[1].record, fingerprint=fingerprint))
    assert "Not comparable." in build_page([other, audits[1]], 0)
    assert "Not comparable." not in html


def test_the_history_of_a_baseline_is_told(html):
    assert re.search(r'<time datetime="2026-01-01">2026-01-01</time> first model', html)


def test_a_dirty_working_tree_is_marked(audits):
    def with_git(dirty):
        provenance = {**audits[0].record.provenance, "git_commit": "0f3b9c2a", "git_dirty": dirty}
        return build_page([replace(audits[0], record=replace(audits[0].record, provenance=provenance))], 0)

    assert "with changes that were not committed" in with_git(True)
    assert "with changes that were not committed" not in with_git(False)


def test_one_record_is_reported_without_comparison(audits):
    html = build_page(audits[:1])
    Outline(html)
    assert MINUS not in re.sub(r"<(style|script)>.*?</\1>", "", html, flags=re.DOTALL)
    assert "newly" not in html.split("<script>")[0]


def test_the_training_is_shown_only_where_there_is_one(audits, html):
    def at(index, step):
        record = audits[index].record
        return replace(audits[index], record=replace(record, provenance={**record.provenance, "step": step}))

    assert 'id="training"' not in html
    assert 'id="training"' in build_page([at(0, 100), at(1, 200)], 0)


def test_maps_that_are_not_there_are_said_once(audits):
    html = build_page([replace(audits[0], maps=None), audits[1]])
    assert html.count("There are no maps beside this record (before)") == 1
    assert len(Outline(html).all("img")) == sum(not row.missed for row in audits[1].record.objects)


def test_left_out_pictures_are_counted_in_the_page(audits, html):
    assert "the pictures of the last 6 are left out" in build_page(audits, 10)
    assert "are left out" not in html


def test_a_negative_number_of_pictures_is_refused(audits):
    with pytest.raises(UserInputError, match="Expected max_strips to be 0 or more, but got -1"):
        build_page(audits, -1)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of records all of whose texts are HTML."""
    folder: Path = tmp_path_factory.mktemp("hostile")
    write_with_maps(hostile_record(), folder / "a.json")
    write_record(make_record(2), folder / "b.json")
    return build_page(read_audits([folder / "a.json", folder / "b.json"], [HOSTILE, "b"]))


def test_text_of_a_record_is_escaped_everywhere(hostile):
    outline = Outline(hostile)
    assert len(outline.all("script")) == 1
    assert not [name for _, attributes in outline.elements for name in attributes if name.startswith("on")]
    assert {picture["src"][:11] for picture in outline.all("img")} == {"data:image/"}
    assert hostile.count("&lt;/script&gt;&lt;script&gt;window.ran=1") > 20


def test_characters_that_deceive_are_replaced(hostile):
    assert "\u202e" not in hostile
    assert "\x07" not in hostile
    assert "x=\ufffdcba\ufffd" in hostile


def test_a_lone_surrogate_can_be_written():
    assert templating._harmless("a\ud800b").encode() == b"a\xef\xbf\xbdb"


# Contrast, by the formula of WCAG 2.2 ------------------------------------------------------------------------


def palettes():
    css = (Path(templating.__file__).parent / "templates" / "page.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", css, flags=re.DOTALL)[:2]
    read = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", light))
    return {"light": read, "dark": read | dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", dark))}


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_contrast_by_hand():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_figures_have_the_contrast_of_wcag_aa(scheme):
    colours = palettes()[scheme]
    series = [name for name in colours if name.startswith("series-")]
    texts = [(name, ground) for name in ("ink", "muted", "accent") for ground in ("paper", "surface")]
    texts += [("notice-ink", "notice"), *((name, "paper") for name in series)]  # the curves' labels
    texts += [(name, f"{name}-tint") for name in ("better", "worse", "unsure")]
    texts += [("ink", f"{name}-tint") for name in ("better", "worse", "unsure")]
    texts += [(name, ground) for name in ("better", "worse", "unsure") for ground in ("paper", "surface")]
    shapes = [("edge", "paper"), ("edge", "surface"), ("notice-edge", "notice")]
    shapes += [(name, name.replace("series", "tint")) for name in series]
    assert {pair: ratio for pair in texts if (ratio := contrast(*map(colours.get, pair))) < 4.5} == {}
    assert {pair: ratio for pair in shapes if (ratio := contrast(*map(colours.get, pair))) < 3} == {}


def test_figures_alone_look_as_in_the_page():
    light = palettes()["light"]
    assert {name: light[name] for name in COLOURS} == COLOURS
