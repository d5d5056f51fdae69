"""The page of a comparison: what it holds, and that a browser opens it without an error or a request."""

import re

import pytest
from helpers.comparisons import checkpoint_result, comparison, image_result
from helpers.hostile import HOSTILE

from odsg_lightning.comparison.page import MAX_PICTURED, comparison_page
from odsg_lightning.comparison.result import CheckpointResult, ImageResult
from odsg_lightning.comparison.summary import summary


def page_of(*checkpoints, **settings):
    return comparison_page(comparison(*checkpoints, **settings), [summary(one) for one in checkpoints])


def many(name="model.ckpt", count=24):
    names = ("odam", "smoothgrad", "d_rise", "random")
    images = [
        image_result(
            index,
            {one: 0.1 * place + 0.02 * index for place, one in enumerate(names)},
            pictures=index < MAX_PICTURED + 2,
        )
        for index in range(count)
    ]
    return checkpoint_result(images, name)


def test_the_same_comparison_is_the_same_page():
    assert page_of(many()) == page_of(many())


def test_every_section_of_every_checkpoint_is_there():
    text = page_of(many("one.ckpt"), many("two.ckpt", 3))
    assert text.count('<article class="compared">') == MAX_PICTURED + 3
    assert len(re.findall(r"<svg role", text)) == 16
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert "<strong>" in text


def test_a_map_that_is_undefined_is_said():
    image = image_result(1, {"odam": 0.5, "lrp": 0.5}, pictures=True)
    del image.pictures.maps["lrp"]["score"]
    assert page_of(checkpoint_result([image])).count("undefined</span>") == 1  # of x_min nothing is drawn at all


def test_nothing_detected_is_a_page_that_says_so():
    empty = CheckpointResult("m.ckpt", "0", (ImageResult(1, (), (5,)),), {"odam": "ODAM()"}, {"odam": ("score",)})
    text = page_of(empty)
    assert "No object was detected" in text
    assert "<svg" not in text


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_opens_it(browser, tmp_path, width):
    images = [image_result(index, {"odam": 0.5, "lrp": 0.1}, category=HOSTILE, pictures=True) for index in range(3)]
    path = tmp_path / "comparison.html"
    path.write_text(page_of(many(), checkpoint_result(images, name=HOSTILE)))
    context = browser.new_context(viewport={"width": width, "height": 900})
    page, troubles = context.new_page(), []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda ask: None if ask.url.startswith(("data:", path.as_uri())) else troubles.append(ask.url))
    page.goto(path.as_uri())
    page.evaluate("for (const image of document.images) image.loading = 'eager'")
    page.wait_for_function("[...document.images].every(image => image.complete)")
    assert page.evaluate("[...document.images].filter(image => !image.naturalWidth).length") == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()
    assert troubles == []
