"""The page in a real browser: what it does, and what it must not do."""

from dataclasses import replace

import pytest
from drawn_strips import write_with_strips
from helpers.hostile import HOSTILE, hostile_record
from helpers.records import as_baseline, dropped, make_record, with_rows, write_with_maps
from playwright.sync_api import expect

from odsg_lightning.report.audits import read_audits
from odsg_lightning.report.page import build_page


@pytest.fixture(scope="module")
def files(audits, tmp_path_factory):
    """The pages that the tests open, by name."""
    folder = tmp_path_factory.mktemp("pages")
    record = hostile_record()
    write_with_maps(record, folder / "hostile.json")
    long = with_rows(record, lambda row: replace(row, category="category" * 100, file_name="name" * 200))
    write_with_maps(long, folder / "long.json")
    many = [folder / f"step_{step}.json" for step in range(8)]
    for step, path in enumerate(many):
        record = make_record(4, seed=step)
        write_with_maps(replace(record, provenance={**record.provenance, "step": step}), path)
    large = make_record(20, 3, missed=0.0)
    large = with_rows(large, lambda row: replace(row, file_name=f"{'blood-cells_' * 8}{row.file_name}"))
    write_with_strips(as_baseline(large), folder / "large.json")
    write_with_strips(dropped(large, 0.2, ("sufficiency",)), folder / f"{'candidate_' * 9}step.json")
    pages = {
        "pair": build_page(audits),
        "one": build_page(audits[1:]),
        "hostile": build_page(read_audits([folder / "hostile.json"], [HOSTILE])),
        "long": build_page(read_audits([folder / "long.json", folder / "hostile.json"])),
        "many": build_page(read_audits(many)),
        "large": build_page(read_audits([folder / "large.json", folder / f"{'candidate_' * 9}step.json"])),
    }
    # What would happen if escaping failed: the browser is told not to run it.
    pages["injected"] = pages["pair"].replace("</main>", "<script>window.ran=1</script>" + HOSTILE + "</main>")
    for name, text in pages.items():
        (folder / f"{name}.html").write_text(text)
    return folder


@pytest.fixture
def visit(browser, files):
    """Opens a page; afterwards no error was logged and nothing was asked of the network."""
    contexts, troubles = [], []

    def opened(name="pair", expect_errors=False, **settings):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
        contexts.append(context)
        page = context.new_page()
        address = (files / f"{name}.html").as_uri()
        if not expect_errors:
            page.on("console", lambda message: troubles.append(message.text))
            page.on("pageerror", lambda error: troubles.append(str(error)))
            allowed = ("data:", address)
            page.on("request", lambda ask: None if ask.url.startswith(allowed) else troubles.append(ask.url))
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert troubles == []


def shown(page, what="ids"):
    cards = page.locator("#cards > li:visible")
    return cards.evaluate_all(f"cards => cards.map(card => card.dataset.{what})")


def chooser(page, name):
    return page.get_by_role("combobox", name=name, exact=True)


def count(page):
    return page.locator("#count").text_content()


def numbers(values):
    return [float(value) for value in values if value]


def test_the_worst_object_comes_first(visit):
    page = visit()
    changes = numbers(shown(page, "change"))
    assert len(changes) == 16
    assert changes == sorted(changes)


def test_sorting(visit):
    page = visit()
    everything = sorted(shown(page))
    for key in ("iof", "score", "category", "name", "change"):
        chooser(page, "Sort by").select_option(key)
        values = shown(page, key)
        filled = [value for value in values if value]
        blank = [""] * (len(values) - len(filled))
        expected = sorted(filled) if key in ("category", "name") else sorted(filled, key=float)
        assert values == expected + blank
        page.get_by_role("button", name="Reverse").click()
        assert shown(page, key) == expected[::-1] + blank
        page.get_by_role("button", name="Reverse").click()
        assert sorted(shown(page)) == everything


def test_filters(visit):
    page = visit()
    chooser(page, "Category").select_option("dog")
    assert set(shown(page, "category")) == {"dog"}
    assert count(page) == "5 of 16 shown"
    chooser(page, "Status").select_option("newly-missed")
    assert shown(page) == ["3 5"]
    assert count(page) == "1 of 16 shown"
    chooser(page, "Category").select_option("cow")
    assert page.get_by_text("No object fits these filters.").is_visible()
    page.get_by_role("button", name="Show all").click()
    expect(page.locator("#count")).to_have_text("16 of 16 shown")  # waits; the page's policy forbids to do so by script
    assert not page.get_by_text("No object fits these filters.").is_visible()


def test_the_least_drop(visit):
    page = visit()
    page.get_by_label("Drop of at least").fill("0.2")
    assert 0 < len(shown(page)) < 16
    assert max(numbers(shown(page, "change"))) <= -0.2
    page.get_by_label("Drop of at least").fill("")
    assert len(shown(page)) == 16


def test_search(visit):
    page = visit()
    for text, ids in (("IMAGE_00003", {"3 5", "3 6"}), ("dog 00003", {"3 5"}), ("nowhere", set())):
        page.get_by_label("Search").fill(text)
        assert set(shown(page)) == ids
        assert count(page) == f"{len(ids)} of 16 shown"


def test_every_picture_loads(visit):
    page = visit()
    pictures = page.locator("img")
    assert pictures.count() == 31  # two for each object but the missed one
    for index in range(pictures.count()):
        pictures.nth(index).scroll_into_view_if_needed()
        expect(pictures.nth(index)).to_have_js_property("naturalWidth", 110)


def test_a_phone_shows_every_panel_in_two_rows(visit):
    page = visit("large", viewport={"width": 390, "height": 844})
    strip = page.locator(".strip").first
    strip.scroll_into_view_if_needed()
    rows = [row.bounding_box() for row in strip.locator(".row img").all()]
    captions = [caption.bounding_box() for caption in strip.locator(".row p").all()]
    assert strip.locator(".row b").all_text_contents()[-2:] == ["object alone", "without the object"]
    assert (len(rows), len(captions)) == (2, 8)
    assert rows[1]["y"] > rows[0]["y"] + rows[0]["height"]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in rows + captions)
    for index in (0, 1):
        expect(strip.locator(".row img").nth(index)).to_have_js_property("complete", True)
        assert rows[index]["width"] / rows[index]["height"] == pytest.approx(4.3, abs=0.6)  # not squeezed


def test_a_wide_screen_shows_a_strip_as_one_row(visit):
    page = visit("large")
    strip = page.locator(".strip").first
    strip.scroll_into_view_if_needed()
    left, right = [row.bounding_box() for row in strip.locator(".row img").all()]
    assert left["y"] == right["y"]
    assert 0 < right["x"] - (left["x"] + left["width"]) < 12


def test_a_table_of_many_columns_becomes_blocks_that_name_them(visit):
    page = visit("large", viewport={"width": 390, "height": 844})
    cell = page.locator("#categories td").nth(3)
    label = cell.evaluate("cell => getComputedStyle(cell, '::before').content")
    assert label == '"Near IOF"'
    assert page.get_by_role("columnheader", name="Near IOF").count() == 1  # and they stay a table to be listened to
    assert page.get_by_role("rowheader", name="cat", exact=True).count() == 1


def test_no_label_of_a_figure_is_cut_off(visit):
    page = visit("many")
    beyond = """all => all.flatMap(svg => {
      const frame = svg.getBoundingClientRect();
      return [...svg.querySelectorAll('text')].filter(text => {
        const box = text.getBoundingClientRect();
        return box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1;
      }).map(text => text.textContent);
    })"""
    figures = page.locator(".panel svg")
    assert figures.count() == 8  # five of regions; hidden pixels, IOF, and found and defined over the steps
    assert figures.evaluate_all(beyond) == []


def test_a_change_is_told_without_its_colour(visit):
    page = visit("large")
    for change in page.locator(".delta.better, .delta.worse").all():
        words = change.text_content()
        assert words == "lost" or words.endswith(("better", "worse"))
    worse = page.locator("#summary .delta.worse").first
    assert worse.text_content().startswith("▼")
    ink, red = (one.evaluate("one => getComputedStyle(one).color") for one in (page.locator("body"), worse))
    assert ink != red


def test_the_first_thing_on_the_page_is_the_gates_verdict(visit):
    page = visit("large", viewport={"width": 390, "height": 844})
    answer = page.locator("main .answer").first
    assert answer.text_content().split() == ["✘", "Regression"]
    assert answer.bounding_box()["y"] < 844
    assert page.locator(".deciding li").first.text_content().split()[:3] == ["✘", "fail", "occlusion/sufficiency"]


def test_many_objects_come_in_pages(visit):
    page = visit("large")
    assert (len(shown(page)), count(page)) == (25, "1 to 25 of 60 shown")
    first = shown(page)
    page.get_by_role("button", name="Next").click()
    assert (len(shown(page)), count(page)) == (25, "26 to 50 of 60 shown")
    assert page.evaluate("document.activeElement.id") == "count"
    page.get_by_role("button", name="Next").press("Enter")
    assert (len(shown(page)), count(page)) == (10, "51 to 60 of 60 shown")
    assert page.get_by_role("button", name="Next").is_disabled()
    chooser(page, "Category").select_option("dog")
    assert count(page) == "1 to 25 of 30 shown, 60 in all"
    chooser(page, "At a time").select_option("all")
    assert count(page) == "30 of 60 shown"
    assert not page.get_by_role("button", name="Next").is_visible()
    page.get_by_role("button", name="Show all").click()
    expect(page.locator("#count")).to_have_text("1 to 25 of 60 shown")
    assert shown(page) == first


def test_what_is_not_shown_is_mere_text(visit):
    page = visit("large")
    assert page.locator("#cards img").count() == 25 * 4
    nodes = page.locator("#cards > li").evaluate_all("all => all.map(one => one.querySelectorAll('*').length)")
    assert nodes[25:] == [1] * 35
    page.get_by_role("button", name="Next").click()
    page.locator("#cards > li:visible img").last.scroll_into_view_if_needed()
    expect(page.locator("#cards > li:visible img").last).to_have_js_property("complete", True)


def test_paper_shows_all_objects(visit):
    page = visit("large")
    page.pdf()  # as from the menu: the page is told beforehand
    page.emulate_media(media="print")
    cards = page.locator("#cards > li:visible")
    assert cards.count() == 60
    assert cards.locator("img").count() == 60 * 4
    assert min(card["height"] for card in cards.evaluate_all("all => all.map(one => one.getBoundingClientRect())")) > 90


def test_without_scripts_all_pages_are_one(visit):
    page = visit("large", java_script_enabled=False)
    assert page.locator("#cards > li:visible h3:visible").count() == 60
    assert page.locator("#cards .row img").count() == 60 * 4
    assert not page.locator("#pager").is_visible()


def test_the_keyboard_is_enough(visit):
    page = visit()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "sort":
            break
    page.keyboard.press("ArrowDown")
    assert chooser(page, "Sort by").input_value() == "iof"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    values = numbers(shown(page, "iof"))
    assert values == sorted(values, reverse=True)
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.get_by_label("Search").focus()
    page.keyboard.type("dog")
    assert set(shown(page, "category")) == {"dog"}


def test_enter_in_the_only_field_submits_nothing(visit):
    page = visit("one")
    page.get_by_label("Search").fill("dog")
    page.keyboard.press("Enter")
    page.wait_for_timeout(100)
    assert set(shown(page, "category")) == {"dog"}


def test_controls_have_names_and_the_count_is_announced(visit):
    page = visit()
    controls = page.locator("select:visible, input:visible, button:visible")
    names = controls.evaluate_all("all => all.map(one => one.labels?.[0]?.innerText.trim() || one.textContent.trim())")
    assert len(names) == 8
    assert all(names)
    assert page.get_by_role("status").text_content() == count(page)
    assert page.get_by_role("button", name="Reverse").get_attribute("aria-pressed") == "false"


def test_without_scripts_everything_is_shown(visit):
    page = visit(java_script_enabled=False)
    assert page.locator("#cards > li:visible").count() == 16
    assert not page.locator("#controls").is_visible()
    assert count(page) == "16 of 16 shown"


@pytest.mark.parametrize("width", [360, 390, 768, 1024])
@pytest.mark.parametrize("name", ["pair", "many", "long", "hostile", "large"])
def test_the_page_does_not_scroll_sideways(visit, name, width):
    page = visit(name, viewport={"width": width, "height": 740})
    page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
    page.locator(".card").evaluate_all("all => all.forEach(one => { one.style.contentVisibility = 'visible'; })")
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_html_in_a_record_stays_text(visit):
    page = visit("hostile")
    assert page.evaluate("window.ran") is None
    heading = page.locator("#cards h3").first.text_content()
    assert heading == HOSTILE.replace("\u202e", "\ufffd").replace("\x07", "\ufffd")
    chooser(page, "Category").select_option(index=1)
    assert len(shown(page)) == 6


def test_a_script_that_got_into_the_page_does_not_run(visit):
    page = visit("injected", expect_errors=True)
    page.wait_for_timeout(100)
    assert page.evaluate("window.ran") is None
    assert count(page) == "16 of 16 shown"  # the page's own script did


@pytest.mark.parametrize(("scheme", "background"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 27)")])
def test_colours_follow_the_readers_choice(visit, scheme, background):
    page = visit(color_scheme=scheme)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == background
    label = page.locator(".panel svg text").first.evaluate("text => getComputedStyle(text).fill")
    assert label == page.locator(".muted").first.evaluate("text => getComputedStyle(text).color")


def test_print_leaves_out_the_controls_and_shows_the_tables(visit):
    page = visit()
    page.emulate_media(media="print")
    assert not page.locator("#controls").is_visible()
    assert [nav.is_visible() for nav in page.locator("nav").all()] == [False, False]
    assert page.locator("details table").first.bounding_box()["height"] > 100
