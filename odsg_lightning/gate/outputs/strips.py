"""Pictures of the objects that fell: the baseline's strip above the candidate's."""

import io
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from odsg_lightning.files import make_folder, replaced
from odsg_lightning.gate.outputs.terminal import place
from odsg_lightning.gate.result import SHOWN, ChangedObject, GateResult
from odsg_lightning.records.maps_file import maps_beside
from odsg_lightning.records.record import read_record
from odsg_lightning.text import number, plain

_LINE = 26  # pixels, for a caption of 16 px


def with_strips(result: GateResult, baseline: Path, candidate: Path, folder: Path) -> GateResult:
    """Write a PNG for each object that is named, and return the result with their paths.

    Args:
        result: of these two records.
        baseline: the record's file; its maps must lie beside it; otherwise the result gets a warning and no pictures.
        candidate: likewise.
        folder: where to; made if it is not there.

    Raises:
        BrokenInputError: maps are there, but cannot be used.
        UserInputError: a file has the folder's name.
        DiskError: the disk is full, or fails, or the folder may not be written to.
    """
    maps = [maps_beside(path, read_record(path).maps) for path in (baseline, candidate)]
    missing = [path for path, beside in zip((baseline, candidate), maps, strict=True) if beside is None]
    if missing:
        warning = f"No pictures: there are no maps beside {plain(str(missing[0]), 200)}."
        return replace(result, warnings=(*result.warnings, warning))
    make_folder(folder)
    strips = {}
    for changed in (*result.worst, *result.newly_missed[:SHOWN], *result.newly_undefined[:SHOWN]):
        pictures = [beside.strip(changed.key) if beside else b"" for beside in maps]
        path = folder / f"image_{changed.image_id}_annotation_{changed.annotation_id}.png"
        with replaced(path) as temporary:
            _pair(changed, result.ranked_by, *pictures).save(temporary, format="PNG")
        strips[changed.key] = path
    return replace(result, strips=strips)


def _pair(changed: ChangedObject, name: str, above: bytes, below: bytes) -> Image.Image:
    rows: list[tuple[str, Image.Image | None]] = [(f"{plain(changed.category, 40)}, {place(changed)}", None)]
    for side, value, strip in (("baseline", changed.baseline, above), ("candidate", changed.candidate, below)):
        picture = Image.open(io.BytesIO(strip)).convert("RGB") if strip else None
        told = f"{name} {number(value)}" if picture else "missed, or no picture stored"
        rows.append((f"{side}: {told}", picture))
    pictures = [picture for _, picture in rows if picture]
    width = max([600, *(picture.width for picture in pictures)])
    page = Image.new("RGB", (width, len(rows) * _LINE + sum(picture.height for picture in pictures)), "white")
    draw, font, top = ImageDraw.Draw(page), ImageFont.load_default(16), 0
    for caption, picture in rows:
        draw.text((6, top + 3), caption, fill="black", font=font)
        top += _LINE
        if picture:
            page.paste(picture, (0, top))
            top += picture.height
    return page
