"""The audit set file: which images are audited, and what they held when they were chosen.

:mod:`odsg_lightning.data.audit_set_files` makes it and checks it against the files. Nothing here loads torch.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import fastjsonschema

from odsg_lightning.errors import BrokenInputError, UserInputError
from odsg_lightning.files import read_json, sha256_of_json, write_text

if TYPE_CHECKING:
    from odsg_lightning.types import AuditSample

SCHEMA = "odsg-audit-set/1"


@dataclass(frozen=True, slots=True)
class AuditImage:
    """One image of the set.

    Attributes:
        id: COCO image id.
        file_name: below the set's ``images_dir``.
        sha256: hash of the image file.
        annotations_sha256: hash of the image's size and of all its annotations.
        annotation_ids: the audited objects, ascending.
    """

    id: int
    file_name: str
    sha256: str
    annotations_sha256: str
    annotation_ids: tuple[int, ...]


@dataclass(frozen=True)
class AuditSet:
    """What is audited, and at which size.

    Attributes:
        annotations: the COCO file.
        images_dir: folder of its images.
        masks: what saliency is measured against.
        min_size: length of the shorter edge as the detector sees the image, in pixels.
        max_size: upper limit of the longer edge, in pixels.
        seed: which images were chosen; None if they were named.
        bad_records: whether unusable records of the COCO file are an error or left out.
        categories: id and name of all categories of the COCO file, in ascending id.
        images: in ascending id.
    """

    annotations: Path
    images_dir: Path
    masks: Literal["segmentation", "box"]
    min_size: int
    max_size: int
    seed: int | None
    bad_records: Literal["error", "skip"]
    categories: tuple[tuple[int, str], ...]
    images: tuple[AuditImage, ...]

    @property
    def sha256(self) -> str:
        """Hash of the content and the settings, not of where the files lie or why these images were chosen."""
        images = [[i.id, i.sha256, i.annotations_sha256, i.annotation_ids] for i in self.images]
        return sha256_of_json([SCHEMA, self.masks, self.min_size, self.max_size, self.categories, images])


def read_audit_set(path: str | Path) -> AuditSet:
    """Read an audit set and check its form; the images and annotations themselves are not looked at.

    Raises:
        BrokenInputError: the file is no audit set: unreadable, truncated, too large, not of the schema, or an image,
            an annotation or a category comes twice.
    """
    content = read_json(path, "an audit set")
    try:
        _validator()(content)
    except fastjsonschema.JsonSchemaValueException as error:
        wrong = isinstance(content, dict) and content.get("schema") != SCHEMA
        cause = f"its schema is {str(content.get('schema'))[:100]!r}, not {SCHEMA!r}" if wrong else error.message[:500]
        raise BrokenInputError(f"Expected an audit set at {path}, but {cause}.") from error
    images = [
        AuditImage(**{**image, "annotation_ids": tuple(sorted(image["annotation_ids"]))}) for image in content["images"]
    ]
    _refuse_twice(path, "image", (image.id for image in images))
    _refuse_twice(path, "annotation", (i for image in images for i in image.annotation_ids))
    _refuse_twice(path, "category", (category["id"] for category in content["categories"]))
    folder = _folder(Path(path))
    return AuditSet(
        annotations=folder / content["annotations"],
        images_dir=folder / content["images_dir"],
        masks=content["masks"],
        min_size=content["min_size"],
        max_size=content["max_size"],
        seed=content["seed"],
        bad_records=content["bad_records"],
        categories=tuple((category["id"], category["name"]) for category in content["categories"]),
        images=tuple(sorted(images, key=lambda image: image.id)),
    )


def write_audit_set(chosen: AuditSet, path: Path) -> None:
    """Write an audit set, whole or not at all; each image is one line. The same set gives the same bytes.

    Raises:
        UserInputError: the set is none that :func:`read_audit_set` would take (a size beyond its limits, say), or the
            file cannot be written.
        DiskError: the disk is full, or fails.
    """
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "annotations": _relative(chosen.annotations, path),
        "images_dir": _relative(chosen.images_dir, path),
        "bad_records": chosen.bad_records,
        "masks": chosen.masks,
        "min_size": chosen.min_size,
        "max_size": chosen.max_size,
        "seed": chosen.seed,
        "categories": [{"id": category_id, "name": name} for category_id, name in chosen.categories],
    }
    images = [
        {
            "id": image.id,
            "file_name": image.file_name,
            "sha256": image.sha256,
            "annotations_sha256": image.annotations_sha256,
            "annotation_ids": list(image.annotation_ids),
        }
        for image in chosen.images
    ]
    try:
        _validator()(content | {"images": images})
    except fastjsonschema.JsonSchemaValueException as error:
        raise UserInputError(f"Expected an audit set of the schema {SCHEMA}, but {error.message[:500]}.") from error
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()]
    lines.append(' "images": [\n  ' + ",\n  ".join(json.dumps(image) for image in images) + "\n ]")
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def samples_sha256(samples: Iterable["AuditSample"]) -> str:
    """Return the hash of samples that come from no file: their pixels and their ground truth."""
    digest = hashlib.sha256(b"odsg-audit-samples/1")
    for sample in samples:
        names = [sample.image_id, sample.annotation_ids, sample.category_names, list(sample.masks.shape)]
        digest.update(sha256_of_json(names).encode())
        for tensor in (sample.image.float(), sample.boxes.float(), sample.labels.long(), sample.masks.bool()):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _refuse_twice(path: str | Path, what: str, ids: Iterable[int]) -> None:
    seen: set[int] = set()
    for number in ids:
        if number in seen:
            raise BrokenInputError(f"Expected an audit set at {path}, but {what} id {number} comes twice.")
        seen.add(number)


def _folder(path: Path) -> Path:
    """Return the folder of a file without symbolic links, because ``..`` leads elsewhere through one."""
    return Path(os.path.realpath(path.parent))


def _relative(target: Path, beside: Path) -> str:
    """Return the way from a file's folder to another file, with forward slashes; absolute from drive to drive."""
    try:
        return Path(os.path.relpath(target, _folder(beside))).as_posix()
    except ValueError:
        return Path(os.path.abspath(target)).as_posix()


@cache
def _validator() -> Callable[[Any], Any]:
    schema = json.loads(Path(__file__).with_name("audit_set.schema.json").read_text(encoding="utf-8"))
    compiled: Callable[[Any], Any] = fastjsonschema.compile(schema)
    return compiled
