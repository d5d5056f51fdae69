"""How heavy `odsg report`'s page of several hundred objects is: to build, to send, and to open in Chromium.

    python examples/benchmarks/page.py                # 400 objects, pictures of all, half a minute
    python examples/benchmarks/page.py --objects 50 --keep page.html

Without Chromium the page is built and not opened.
"""

import argparse
import io
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from measuring import machine
from PIL import Image

from odsg_lightning.audit.config import AuditConfig
from odsg_lightning.names import IOF_NAMES, MAP_NAMES
from odsg_lightning.records.maps_file import ObjectMaps
from odsg_lightning.records.record import AuditRecord, ObjectRow, write_record, write_record_with_maps
from odsg_lightning.report.audits import read_audits
from odsg_lightning.report.page import build_page
from odsg_lightning.viz.strip import object_strip

_SIDE = 160
_STRIPS = 20  # different ones
_COUNTED = """() => ({
  nodes: document.querySelectorAll('*').length,
  pictures: [...document.images].filter(one => one.complete && one.naturalWidth).length,
  height: document.documentElement.scrollHeight,
})"""
# From the first byte to the second frame after everything is loaded.
_TWICE = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))))"


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Print the figures; return them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=400, help="in the audit set, five an image")
    parser.add_argument("--rounds", type=int, default=5, help="how often the page is opened; the median counts")
    parser.add_argument("--keep", type=Path, help="write the page here, too")
    options = parser.parse_args(arguments)
    print(machine("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        audits = read_audits(_write_records(Path(folder), options.objects))
        start = time.process_time()  # of the CPU: other programs do not count
        text = build_page(audits, options.objects)
        numbers = {"CPU seconds to build": time.process_time() - start, "MiB": len(text.encode()) / 2**20}
        page = Path(folder) / "page.html"
        page.write_text(text)
        if options.keep:
            shutil.copyfile(page, options.keep)
        numbers |= _opened(page, options.rounds)
    for name, value in numbers.items():
        print(f"{name:<32} {value:>10.1f}")
    return numbers


def _opened(page: Path, rounds: int) -> dict[str, float]:
    """Open the page on a phone's screen and count; nothing where there is no Chromium."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        print("No Chromium is installed: the page was not opened.")
        return {}
    from playwright.sync_api import sync_playwright

    times, found = [], {}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        for _ in range(rounds):
            tab = browser.new_page(viewport={"width": 390, "height": 844})
            tab.goto(page.as_uri())
            times.append(tab.evaluate(_TWICE))
            found = tab.evaluate(_COUNTED)
            tab.close()
        browser.close()
    return {
        "ms to open": float(np.median(times)),
        "DOM nodes": found["nodes"],
        "pictures decoded at once": found["pictures"],
        "pixels high at 390 wide": found["height"],
    }


def _write_records(folder: Path, count: int) -> list[Path]:
    """Write an accepted baseline and a candidate that looks a little beside its objects."""
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.random((3, 8, 8), dtype=np.float32) * 255)
    image = torch.nn.functional.interpolate(image[None], (_SIDE, _SIDE), mode="bicubic")[0].clamp(0, 255)
    drawn = [_strip(image, number) for number in range(_STRIPS)]
    paths = [folder / "baseline.json", folder / "candidate.json"]
    for path, lower in zip(paths, (0.0, 0.1), strict=True):
        rows = tuple(_row(index, float(rng.uniform(0.5, 0.9)) - lower) for index in range(count))
        record = AuditRecord({"audit_set": "0" * 64, **AuditConfig().measured}, _provenance(), rows)
        maps = ObjectMaps(np.ones((5, 8, 8), np.float16), np.ones((5, 8, 8), bool))
        pictures = ((row.key, replace(maps, strip=drawn[row.annotation_id % len(drawn)])) for row in rows)
        written = write_record_with_maps(record, path, pictures)
        if not lower:
            accepted = {"reason": "measured", "date": "2026-01-01", "record_sha256": written.content_sha256}
            write_record(replace(written, accepted=(accepted,)), path)
    return paths


def _row(index: int, share: float) -> ObjectRow:
    again = {"score": round(0.95 * share, 6), "iou": 0.9, "shift": [0.01, 0.0, 0.0, 0.01]}
    return ObjectRow(
        image_id=index // 5 + 1,
        annotation_id=index + 1,
        file_name=f"photographs/2026/image_{index // 5 + 1:06d}.jpg",
        category=f"category {index % 7}",
        iou=0.9,
        score=0.95,
        box=(40.0, 40.0, 100.0, 100.0),
        matched_samples=20,
        n_samples=20,
        iof={n: round(share if n.endswith(("object", "near")) else share / 4, 6) for n in IOF_NAMES},
        box_maps=dict.fromkeys(MAP_NAMES, 0.5),
        occlusion={"sufficiency": round(share, 6), "necessity": round(1 - share, 6)},
        detected_again=dict.fromkeys(["sufficiency/blur", "sufficiency/grey", "necessity/inpaint"], again),
    )


def _strip(image: torch.Tensor, number: int) -> bytes:
    x, y = 20 + number * 7 % 60, 20 + number * 13 % 60
    rows, columns = torch.meshgrid(torch.arange(_SIDE), torch.arange(_SIDE), indexing="ij")
    maps = torch.stack([torch.exp(-((rows - y - s) ** 2 + (columns - x - s) ** 2) / 200.0) for s in range(0, 50, 10)])
    box = torch.tensor([x, y, x + 50.0, y + 50.0])
    picture = object_strip(
        image, maps, maps > 0.32, ground_truth_box=box, detected_box=box + 2, mask=None, title=f"object {number}"
    )
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "WEBP", quality=80)
    return stream.getvalue()


def _provenance() -> dict[str, object]:
    nothing = dict.fromkeys(("checkpoint", "checkpoint_sha256", "step", "git_commit", "git_dirty"))
    return {**nothing, "versions": {}}


if __name__ == "__main__":
    main()
