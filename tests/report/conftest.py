"""One Chromium for all tests of the page, and the pages that they open."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.records import as_baseline, as_missed, as_undefined, dropped, make_record, with_rows, write_with_maps

from odsg_lightning.records.record import AuditRecord, ObjectRow
from odsg_lightning.report.audits import Audit, read_audits


@pytest.fixture(scope="session")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    with sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        chromium = driver.chromium.launch(executable_path=program, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def pair() -> tuple[AuditRecord, AuditRecord]:
    """A baseline, and a candidate that looks elsewhere, misses annotation 5 and has undefined maps for 6 and 7."""
    before = make_record(8, 2, missed=0.0, categories=("cat", "dog", "cow"))
    metrics = {"val/map": 0.61, "val/map_50": 0.9}

    def worse(row: ObjectRow) -> ObjectRow:
        if row.annotation_id == 5:
            return as_missed(row)
        if row.annotation_id in (6, 7):
            return as_undefined(row, ("x_min",) if row.annotation_id == 6 else ("x_min", "y_min", "x_max", "y_max"))
        return dropped(replace(before, objects=(row,)), 0.02 * row.annotation_id).objects[0]

    after = replace(with_rows(before, worse), metrics={"val/map": 0.63, "val/map_50": 0.95})
    return as_baseline(replace(before, metrics=metrics)), after


@pytest.fixture(scope="session")
def written(pair: tuple[AuditRecord, AuditRecord], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The files of :func:`pair`, with maps beside them."""
    folder = tmp_path_factory.mktemp("report")
    paths = [folder / "before.json", folder / "after.json"]
    for record, path, colour in zip(pair, paths, ((90, 140, 200), (200, 90, 60)), strict=True):
        write_with_maps(record, path, colour)
    return paths


@pytest.fixture(scope="session")
def audits(written: list[Path]) -> list[Audit]:
    return read_audits(written)
