"""``odsg convert``."""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from odsg_lightning.errors import UserInputError


def add(subcommands: Any) -> None:
    """Describe the subcommand."""
    formats = subcommands.add_parser("convert", help="make COCO JSON of Pascal VOC or YOLO files").add_subparsers(
        metavar="voc|yolo", required=True
    )
    voc = formats.add_parser("voc", help="a folder of XML files")
    voc.add_argument("--annotations", type=Path, required=True, metavar="FOLDER", help="of the XML files")
    voc.add_argument("--images", type=Path, required=True, metavar="FOLDER", help="of the images")
    voc.add_argument("--image-set", type=Path, metavar="FILE", help="images to convert, as ImageSets/Main/train.txt")
    voc.add_argument(
        "--zero-based",
        action="store_true",
        help="coordinates count from 0, as CVAT writes them, not pixels from 1, as VOC does",
    )
    voc.set_defaults(run=_run_voc)
    yolo = formats.add_parser("yolo", help="a data.yaml with its images and labels")
    yolo.add_argument("--data", type=Path, required=True, metavar="data.yaml", help="classes and splits")
    yolo.add_argument("--split", default="train", help="train, val or test (default: train)")
    yolo.set_defaults(run=_run_yolo)
    for parser in (voc, yolo):
        parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the COCO JSON to write")
        parser.add_argument("--force", action="store_true", help="overwrite it if it is there")


def _run_voc(options: argparse.Namespace) -> int:
    from odsg_lightning.data.convert import voc_to_coco

    return _write(
        options,
        lambda: voc_to_coco(
            options.annotations, options.images, image_set=options.image_set, zero_based=options.zero_based
        ),
    )


def _run_yolo(options: argparse.Namespace) -> int:
    from odsg_lightning.data.convert import yolo_to_coco

    return _write(options, lambda: yolo_to_coco(options.data, options.split))


def _write(options: argparse.Namespace, convert: Any) -> int:
    """Write the file, and read it as training will, so that whatever is wrong with it is said now."""
    from odsg_lightning.data.coco import read_coco
    from odsg_lightning.files import write_text
    from odsg_lightning.text import plain

    if options.output.exists() and not options.force:
        raise UserInputError(f"Expected {options.output} to be new, but it is there. Add --force to overwrite it.")
    converted = convert()
    write_text(options.output, json.dumps(converted.content, allow_nan=False))
    coco = read_coco(options.output, converted.images_dir, bad_records="skip")
    objects = Counter(annotation.label for image in coco.images for annotation in image.annotations)
    for label, name in enumerate(coco.category_names):
        print(f"{objects[label]:8} {plain(name)}")
    if converted.n_difficult:
        print(
            f"{converted.n_difficult} objects are marked difficult, which COCO does not know: they count as any other."
        )
    print(f"Written: {options.output}, {len(coco.images)} images, in {converted.images_dir}")
    return 0
