"""Pascal VOC and YOLO data sets as COCO files; globox reads their boxes, in double precision and without rounding."""

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import isfinite, nan
from pathlib import Path
from typing import Any

from odsg_lightning.data.coco_checks import is_bbox, whole_number
from odsg_lightning.data.coco_problems import BadRecordError
from odsg_lightning.data.image_names import ImageFolder
from odsg_lightning.data.images import upright_size
from odsg_lightning.errors import BrokenInputError, MissingDependencyError, MissingFileError
from odsg_lightning.files import regular_file
from odsg_lightning.yaml_files import read_yaml

_MAX_BYTES = 64 * 2**20
_IMAGES = {".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".mpo", ".pgm", ".png", ".ppm"}
_IMAGES |= {".tga", ".tif", ".tiff", ".webp"}
_FARTHEST = 2.0  # of relative coordinates: some overstep the border a little, pixels do so by far


@dataclass
class Converted:
    """A COCO file in the making.

    Attributes:
        images_dir: folder that the file names are relative to.
        content: what :func:`odsg_lightning.data.coco.read_coco` reads.
        n_difficult: objects that VOC calls difficult, which are kept as any other.
    """

    images_dir: Path
    content: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {"images": [], "annotations": [], "categories": []}
    )
    n_difficult: int = 0

    def add_image(self, file_name: str, height: int, width: int) -> None:
        """Add an image, to which the next objects belong."""
        images = self.content["images"]
        images.append({"id": len(images) + 1, "file_name": file_name, "height": height, "width": width})

    def add_object(self, category_id: int, bbox: Sequence[float], polygon: list[float] | None = None) -> None:
        """Add an object: ``[x, y, width, height]`` in pixels, and the polygon around it if there is one."""
        annotations, image = self.content["annotations"], self.content["images"][-1]
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": image["id"],
                "category_id": category_id,
                "bbox": list(bbox),
                "area": bbox[2] * bbox[3],
                "iscrowd": 0,
                "segmentation": [polygon] if polygon else [],
            }
        )


def voc_to_coco(
    annotations: Path, images: Path, *, image_set: Path | None = None, zero_based: bool = False
) -> Converted:
    """Convert a folder of Pascal VOC XML files, one for each image.

    VOC counts pixels from 1, and the last one belongs to the box: ``xmin`` 1 and ``xmax`` 640 are the whole width of
    640 pixels, the COCO box from 0 to 640. So does Detectron2 read them. The categories are those of all files, by
    name, so that several image sets of one folder agree on them.

    Args:
        annotations: the folder of the XML files.
        images: the folder of the images.
        image_set: a list of the images to convert, as in VOC's ``ImageSets/Main``; None for all.
        zero_based: ``xmin`` and so on are coordinates from 0 as COCO's, as CVAT and Datumaro write them.

    Raises:
        MissingFileError: the folder has no XML files, or an image is not there.
        BrokenInputError: a file is no such XML, or counts pixels from 0 without ``zero_based``.
        MissingDependencyError: globox is not installed.
    """
    _globox()
    paths = sorted(path for path in annotations.glob("*") if path.suffix.lower() == ".xml")
    if not paths:
        raise MissingFileError(f"Expected a folder of Pascal VOC XML files at {annotations}, but there are none.")
    roots = {path.stem: (path, _xml(path)) for path in paths}
    names = sorted({_text(o, "name", path) for path, root in roots.values() for o in root.findall("object")})
    converted, files = Converted(images), ImageFolder(images)
    converted.content["categories"] = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    ids = {name: i for i, name in enumerate(names, 1)}
    for stem in _listed(image_set, roots) if image_set else roots:
        path, root = roots[stem]
        name = _image_of(root, path, files)
        sides = [whole_number(_number(root.findtext(f"size/{side}"))) for side in ("height", "width")]
        height, width = [side or 0 for side in sides] if all(sides) else upright_size(images / name)
        converted.add_image(name, height, width)
        for node in root.findall("object"):
            converted.n_difficult += node.findtext("difficult", "0").strip() == "1"
            converted.add_object(ids[_text(node, "name", path)], _voc_bbox(node, path, zero_based))
    return converted


def yolo_to_coco(data: Path, split: str) -> Converted:
    """Convert one split of a YOLO data set: Ultralytics' layout, which Roboflow exports, too.

    Each image has a label file, where the last folder ``images`` of its path is called ``labels``. Relative numbers are
    multiplied by the image's size as viewers show it, which is how Ultralytics reads it. The category ids are YOLO's.

    Args:
        data: the ``data.yaml``.
        split: ``"train"``, ``"val"`` or ``"test"``.

    Raises:
        MissingFileError: the images, or all of their label files, are not where the file says.
        BrokenInputError: a file is none of YOLO's, or holds keypoints or detections.
        MissingDependencyError: globox is not installed.
    """
    _globox()
    root, entries, names = _read_data_yaml(data, split)
    paths = sorted({Path(os.path.abspath(path)) for entry in entries for path in _images_of(entry, root)})
    if not paths:
        raise MissingFileError(f"Expected images of {split!r} in {data} at {entries}, but there are none.")
    converted = Converted(Path(os.path.commonpath([path.parent for path in paths])))
    converted.content["categories"] = [{"id": i, "name": name} for i, name in sorted(names.items())]
    labels = [_label_file(path) for path in paths]
    if not any(label.is_file() for label in labels):
        raise MissingFileError(f"Expected a label file {labels[0]} beside {paths[0]}, and so on, but there are none.")
    for path, label in zip(paths, labels, strict=True):
        height, width = upright_size(path)
        converted.add_image(path.relative_to(converted.images_dir).as_posix(), height, width)
        if not label.is_file():  # an image without objects
            continue
        for number, line in enumerate(_lines(label, "a YOLO label file"), 1):
            converted.add_object(*_yolo_object(line, f"{label}, line {number}", names, (width, height)))
    return converted


def _voc_bbox(node: ElementTree.Element, path: Path, zero_based: bool) -> list[float]:
    x1, y1, x2, y2 = numbers = _box(path, _globox().BoundingBox.from_xml, node).ltrb
    if not zero_based:
        if min(numbers) < 1 or None in map(whole_number, numbers):
            raise BrokenInputError(
                f"Expected pixels counted from 1 on, as Pascal VOC does, but {path} has a box {list(numbers)}. If the "
                "tool that wrote it counts from 0, add --zero-based."
            )
        x1, y1 = x1 - 1, y1 - 1
    return [x1, y1, x2 - x1, y2 - y1]


def _yolo_object(
    line: str, where: str, names: dict[int, str], sides: tuple[int, int]
) -> tuple[int, list[float], list[float] | None]:
    """Return the class, ``[x, y, width, height]``, and the polygon if there is one."""
    kind, *values = (_number(text) for text in line.split())
    number = whole_number(kind)
    if number is None or number not in names or len(values) < 4 or len(values) % 2 or not all(map(isfinite, values)):
        raise BrokenInputError(
            f"Expected a class from {min(names)} to {max(names)} and the 4 numbers of a box, or the points of a "
            f"polygon, in {where}, but got {line[:80]!r}."
        )
    if max(map(abs, values)) > _FARTHEST:
        raise BrokenInputError(f"Expected relative coordinates (0 to 1) in {where}, but got {line[:80]!r}.")
    boxes = _globox().BoundingBox
    if len(values) == 4:
        return number, list(_box(where, boxes.from_yolo_v5, line, image_size=sides).ltwh), None
    polygon = [value * sides[i % 2] for i, value in enumerate(values)]
    return number, list(_box(where, boxes.from_yolo_seg, line, image_size=sides).ltwh), polygon


def _globox() -> Any:
    try:
        import globox
    except ImportError as error:
        raise MissingDependencyError(
            "Expected globox, which reads VOC and YOLO, but it is not installed: pip install 'odsg_lightning[convert]'"
        ) from error
    return globox


def _box(where: object, read: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Return what globox reads."""
    try:
        box = read(*args, **options)
    except Exception as error:  # globox asserts, and raises errors of its own
        raise BrokenInputError(f"Expected a box in {where}, but: {error}") from error
    if not is_bbox(list(box.ltrb)):
        raise BrokenInputError(f"Expected a box of finite numbers in {where}, but got {box.ltrb}.")
    return box


def _xml(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(regular_file(path, "a Pascal VOC XML file", _MAX_BYTES).read_bytes())
    except (ElementTree.ParseError, ValueError, LookupError, OSError) as error:  # an encoding that is none
        if isinstance(error, BrokenInputError):
            raise
        raise BrokenInputError(f"Expected a Pascal VOC XML file at {path}, but {error}.") from error


def _text(node: ElementTree.Element, key: str, path: Path) -> str:
    text = (node.findtext(key) or "").strip()
    if not text:
        raise BrokenInputError(f"Expected {path} to have a {key} in each {node.tag}, but one has none.")
    return text


def _number(text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        return nan


def _listed(image_set: Path, known: dict[str, Any]) -> list[str]:
    """Return the names in an image set; where a set is of one class, a number behind each says whether it has it."""
    stems = [line.split()[0] for line in _lines(image_set, "an image set") if line.split()]
    unknown = [stem for stem in stems if stem not in known]
    if unknown:
        raise MissingFileError(f"Expected an XML file for each image of {image_set}, but {unknown[:3]} have none.")
    return list(dict.fromkeys(stems))


def _image_of(root: ElementTree.Element, path: Path, files: ImageFolder) -> str:
    """Return the image's name: the one in the file, or the one file that is called like the XML file."""
    try:
        return files.find(_text(root, "filename", path))
    except (BadRecordError, BrokenInputError) as error:
        alike = sorted(f.name for f in files.folder.glob(f"{path.stem}.*") if f.suffix.lower() in _IMAGES)
        if len(alike) != 1:
            raise MissingFileError(f"Expected an image for {path}, but: {error}") from error
        return alike[0]


def _lines(path: Path, what: str) -> list[str]:
    try:
        text = regular_file(path, what, _MAX_BYTES).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BrokenInputError(f"Expected {what} at {path}, but {error}.") from error
    return [line for line in text.splitlines() if line.strip()]


def _read_data_yaml(data: Path, split: str) -> tuple[Path, list[str], dict[int, str]]:
    """Return the folder, what the split consists of, and the names of the classes."""
    content = read_yaml(data, "the data.yaml of a YOLO data set")
    names = content.get("names") if isinstance(content, dict) else None
    names = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(names, dict) or not names or not all(type(i) is int for i in names):
        raise BrokenInputError(f"Expected {data} to list the classes under names, as YOLO's data.yaml does.")
    if "kpt_shape" in content:
        raise BrokenInputError(f"Expected boxes or polygons, but {data} describes keypoints (kpt_shape).")
    entries = content.get(split)
    entries = [entries] if isinstance(entries, str) else entries
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, str) for entry in entries):
        raise BrokenInputError(f"Expected {data} to name images under {split!r}, but it has only {sorted(content)}.")
    root = data.parent / str(content.get("path") or "")
    return root if root.is_dir() else data.parent, entries, {i: str(name) for i, name in names.items()}


def _images_of(entry: str, root: Path) -> Iterator[Path]:
    """Yield the images of a folder or a list; Roboflow's ../train/images is beside the data.yaml, not above it."""
    place = root / entry
    if not place.exists() and entry.startswith("../"):
        place = root / entry[3:]
    if place.is_dir():
        yield from (path for path in place.rglob("*") if path.suffix.lower() in _IMAGES)
    elif place.suffix == ".txt":
        for line in _lines(place, "a list of images"):
            yield (place.parent if line.startswith("./") else root) / line.strip()
    else:
        raise MissingFileError(f"Expected a folder of images or a list of them at {place}, but there is none.")


def _label_file(image: Path) -> Path:
    folders = list(image.parent.parts)
    if "images" in folders:
        folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return Path(*folders) / f"{image.stem}.txt"
