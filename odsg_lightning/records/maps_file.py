"""The maps beside an audit record: an ``.npz`` file with the maps and the strip of every detected object.

Members, for each object ``<image id>_<annotation id>``: ``.maps`` float16 ``[5, h, w]``, ``.foreground`` uint8
``[5, ceil(h * w / 8)]`` (packed bits), ``.strip`` uint8 (a WebP picture). ``numpy.load`` reads it, too. Files of
unknown origin are read without pickle, and refused by size before anything is decoded. Nothing here loads torch.
"""

import io
import math
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from odsg_lightning.errors import BrokenInputError
from odsg_lightning.files import regular_file, sha256_of
from odsg_lightning.names import PARAMETERS

Key = tuple[int, int]

MAX_SIDE = 192
"""Longer side of a stored map, in pixels, at most: larger ones are averaged over blocks."""

_MAX_STRIP_PIXELS = 4_000_000
_MAX_STRIP_BYTES = 8 * 2**20
_MEMBER = re.compile(r"(-?\d{1,17})_(-?\d{1,17})\.(maps|foreground|strip)\.npy")


@dataclass(frozen=True)
class ObjectMaps:
    """What is stored of one detected object.

    Attributes:
        maps: ``[5, h, w]`` float16, as shares of each map's own maximum; all NaN where a map is undefined.
        foreground: ``[5, h, w]`` bool, the binarised maps.
        strip: the picture of the object, WebP; empty for none.
    """

    maps: NDArray[np.float16]
    foreground: NDArray[np.bool_]
    strip: bytes = b""


@contextmanager
def maps_writer(path: Path) -> Iterator["MapsWriter"]:
    """Yield a writer of a new file at ``path``; use it within :func:`odsg_lightning.files.replaced`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=4) as archive:
        yield MapsWriter(archive)


class MapsWriter:
    """Adds objects to a file, one by one. The same objects in the same order give the same bytes."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        """Write to an open archive; see :func:`maps_writer`."""
        self._archive = archive

    def add(self, key: Key, item: ObjectMaps) -> None:
        """Add an object by its image id and annotation id.

        Raises:
            ValueError: the shapes or types are not those of :class:`ObjectMaps`.
        """
        if item.maps.ndim != 3 or len(item.maps) != len(PARAMETERS) or item.foreground.shape != item.maps.shape:
            raise ValueError(
                f"Expected maps and foreground of shape [5, h, w], but got {list(item.maps.shape)} and "
                f"{list(item.foreground.shape)}."
            )
        packed = np.packbits(item.foreground.reshape(len(PARAMETERS), -1), axis=1)
        strip = np.frombuffer(item.strip, dtype=np.uint8)
        for name, array in (("maps", item.maps.astype(np.float16)), ("foreground", packed), ("strip", strip)):
            # A ZipInfo of its own: its date is always 1980, so that equal audits are equal files.
            member = zipfile.ZipInfo(f"{key[0]}_{key[1]}.{name}.npy")
            member.compress_type = zipfile.ZIP_STORED if name == "strip" else zipfile.ZIP_DEFLATED
            with self._archive.open(member, "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


class MapsFile:
    """Reads the maps beside a record, object by object.

    Args:
        path: the ``.npz`` file.

    Raises:
        BrokenInputError: it is none, or holds members that no audit writes.
    """

    def __init__(self, path: Path) -> None:
        """See the class for the arguments."""
        self.path = regular_file(path, "the maps of an audit record")
        try:
            self._archive = zipfile.ZipFile(path)  # kept open: its directory lists three members an object
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise BrokenInputError(f"Expected the maps of an audit record at {path}, but {error}.") from error
        methods = {member.compress_type for member in self._archive.infolist()}
        if methods - {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:  # of the others, a part is not read alone
            raise BrokenInputError(f"Expected {path} to be stored or deflated, but got another compression.")
        names = self._archive.namelist()
        matches = [_MEMBER.fullmatch(name) for name in names]
        strange = [name for name, match in zip(names, matches, strict=True) if match is None]
        if strange or len(set(names)) < len(names):
            raise BrokenInputError(
                f"Expected {path} to hold maps of objects, each once, but got {strange[:3] or 'one twice'}."
            )
        self.keys = {(int(match[1]), int(match[2])) for match in matches if match}

    def read(self, key: Key) -> ObjectMaps | None:
        """Return what is stored of an object, or None if nothing is.

        Raises:
            BrokenInputError: it is damaged, or larger than any audit writes.
        """
        if key not in self.keys:
            return None
        maps = self._array(key, "maps", np.dtype(np.float16), 3)
        if maps.shape[0] != len(PARAMETERS) or max(maps.shape[1:]) > MAX_SIDE or not maps.size:
            raise self._broken(key, f"maps of shape {list(maps.shape)}")
        packed = self._array(key, "foreground", np.dtype(np.uint8), 2)
        pixels = maps.shape[1] * maps.shape[2]
        if packed.shape != (len(PARAMETERS), math.ceil(pixels / 8)):
            raise self._broken(key, f"a foreground of shape {list(packed.shape)}")
        foreground = np.unpackbits(packed, axis=1, count=pixels).astype(bool).reshape(maps.shape)
        return ObjectMaps(maps, foreground, self.strip(key))

    def strip(self, key: Key) -> bytes:
        """Return the picture of an object, WebP that decodes; empty if there is none.

        Raises:
            BrokenInputError: it is no WebP picture, or a giant one.
        """
        if key not in self.keys:
            return b""
        content = self._array(key, "strip", np.dtype(np.uint8), 1).tobytes()
        if content:
            try:
                with Image.open(io.BytesIO(content), formats=("WEBP",)) as picture:
                    if picture.width * picture.height > _MAX_STRIP_PIXELS:
                        raise self._broken(key, f"a strip of {picture.width}x{picture.height} pixels")
                    picture.load()
            except (OSError, SyntaxError) as error:
                raise self._broken(key, f"a strip that is no picture ({error})") from error
        return content

    def _array(self, key: Key, name: str, dtype: np.dtype[Any], dimensions: int) -> NDArray[Any]:
        """Read one member whose header says what it must, and no more bytes than it says."""
        member = f"{key[0]}_{key[1]}.{name}.npy"
        try:
            with self._archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                shape, fortran, stored = (
                    np.lib.format.read_array_header_1_0(file) if version == (1, 0) else ((), 0, None)
                )
                size = math.prod(shape) if all(0 <= length <= _MAX_STRIP_BYTES for length in shape) else math.inf
                if stored != dtype or fortran or len(shape) != dimensions or size > _MAX_STRIP_BYTES:
                    raise self._broken(key, f"{name} of type {stored} and shape {str(list(shape))[:100]}")
                content = file.read(math.prod(shape) * dtype.itemsize)
        except (zipfile.BadZipFile, OSError, ValueError, KeyError, NotImplementedError, EOFError) as error:
            if isinstance(error, BrokenInputError):
                raise
            raise self._broken(key, f"damaged {name} ({error})") from error
        except Exception as error:  # zlib.error, and what a decoder raises of a broken stream
            raise self._broken(key, f"damaged {name} ({error})") from error
        if len(content) != math.prod(shape) * dtype.itemsize:
            raise self._broken(key, f"truncated {name}")
        return np.frombuffer(content, dtype=dtype).reshape(shape)

    def _broken(self, key: Key, got: str) -> BrokenInputError:
        return BrokenInputError(
            f"Expected {self.path} to hold the maps of annotation {key[1]} of image {key[0]}, but got {got}."
        )


def maps_path(record: Path) -> Path:
    """Return where the maps of a record lie."""
    return record.with_name(f"{record.stem}.maps.npz")


def waiting_path(maps: Path, sha256: str) -> Path:
    """Return where new maps wait for their record to be replaced: :mod:`odsg_lightning.records.pair`."""
    return maps.with_name(f".{maps.name[:100]}-{sha256}.npz")


def maps_beside(record_path: Path, maps: Mapping[str, str] | None) -> MapsFile | None:
    """Open the maps that belong to a record.

    Args:
        record_path: the record's own file.
        maps: its entry :attr:`odsg_lightning.records.record.AuditRecord.maps`.

    Returns:
        The maps; None if the record names none, or the file is not there (it need not travel with the record).

    Raises:
        BrokenInputError: the file lies outside of the record's folder, or is another than the record names.
    """
    if maps is None:
        return None
    folder = record_path.resolve().parent
    path = folder / maps["file"]
    waiting = waiting_path(path, maps["sha256"])
    if os.path.lexists(waiting):  # the process that wrote the record ended before the maps took their place
        path = waiting
    if not os.path.lexists(path):
        return None
    try:
        inside = path.resolve(strict=True).is_relative_to(folder)
    except (OSError, RuntimeError) as error:  # a circle of links
        raise BrokenInputError(f"Expected the maps of {record_path} at {path}, but {error}.") from error
    if not inside:
        raise BrokenInputError(f"Expected the maps of {record_path} beside it, but {path} leads to another folder.")
    regular_file(path, f"the maps of {record_path}")
    if sha256_of(path) != maps["sha256"]:
        raise BrokenInputError(
            f"Expected {path} to be the maps that {record_path} was written with, but its content is another."
        )
    return MapsFile(path)
