"""Keeps the finished images of an audit on disk, so that an interrupted one goes on where it stopped.

Each image is a record of its own, with its maps, in a folder beside the output: it is written and read as any other.
Nothing here loads torch.
"""

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from odsg_lightning.errors import BrokenInputError
from odsg_lightning.files import make_folder, read_json, write_text
from odsg_lightning.records.maps_file import Key, MapsFile, ObjectMaps, maps_beside
from odsg_lightning.records.record import (
    AuditRecord,
    ObjectRow,
    differing_entries,
    read_record,
    write_record_with_maps,
)

log = logging.getLogger(__name__)

_HEAD = "head.json"
_MAX_HEAD_BYTES = 2**20


class PartialAudit:
    """The folder ``.<stem>.partial`` beside the output.

    Args:
        output: the record that the audit will be.
        record: its head: everything but the objects and the maps.
        settings: what else must be the same for two parts to fit together, as plain JSON values.
        with_maps: whether maps are kept.
    """

    def __init__(
        self, output: Path, record: AuditRecord, settings: Mapping[str, Any], *, with_maps: bool = True
    ) -> None:
        """See the class for the arguments. Nothing is written or read here."""
        self.folder = output.with_name(f".{output.stem}.partial")
        self._record = record
        self._with_maps = with_maps
        self._head = {
            "fingerprint": dict(record.fingerprint),
            "provenance": dict(record.provenance),
            "settings": dict(settings),
            "with_maps": with_maps,
        }

    def open(self, *, throw_away: str = "") -> None:
        """Take up what an earlier call with the same head has finished; anything else there is thrown away.

        Args:
            throw_away: a reason to throw away what fits, too.

        Raises:
            BrokenInputError: the folder holds files of somebody else.
            UserInputError: a file has the folder's name.
            DiskError: the disk is full, or fails, or nothing may be written there.
        """
        if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
            raise BrokenInputError(f"Expected {self.folder} to be a folder of an unfinished audit. Remove it.")
        if self.folder.is_dir():
            reason = throw_away or self._difference()
            if reason:
                log.warning("The unfinished audit in %s is thrown away: %s.", self.folder, reason)
                self.remove()
        make_folder(self.folder)
        write_text(self.folder / _HEAD, json.dumps(self._head, indent=1, sort_keys=True) + "\n")

    def finished(self, image_id: int, annotation_ids: Iterable[int]) -> tuple[ObjectRow, ...] | None:
        """Return the rows of an image; None if it is not finished, or what is there is damaged.

        Args:
            image_id: the image.
            annotation_ids: its audited objects.
        """
        path = self._path(image_id)
        if not os.path.lexists(path):
            return None
        try:
            part = read_record(path)
            maps = self._maps(path, part)
        except BrokenInputError as error:
            log.warning("Image id %d is audited again: %s", image_id, error)
            return None
        expected = {(image_id, annotation_id) for annotation_id in annotation_ids}
        explained = {row.key for row in part.objects if row.explained}
        same_head = (part.fingerprint, part.provenance) == (self._record.fingerprint, self._record.provenance)
        if not same_head or set(part.by_key) != expected or (maps is not None and maps.keys != explained):
            log.warning("Image id %d is audited again: %s holds another audit.", image_id, path)
            return None
        return part.objects

    def add(self, rows: Iterable[ObjectRow], maps: Mapping[Key, ObjectMaps]) -> None:
        """Keep a finished image: the rows of all its audited objects, and the maps of those explained."""
        objects = tuple(sorted(rows, key=lambda row: row.key))
        part = AuditRecord(self._record.fingerprint, self._record.provenance, objects)
        write_record_with_maps(part, self._path(objects[0].image_id), sorted(maps.items()) if self._with_maps else None)

    def maps(self, image_ids: Iterable[int]) -> Iterable[tuple[Key, ObjectMaps]]:
        """Yield the maps of all finished images, in ascending key.

        Raises:
            BrokenInputError: they have changed since.
        """
        for image_id in sorted(image_ids):
            path = self._path(image_id)
            maps = self._maps(path, read_record(path))
            for key in sorted(maps.keys) if maps else ():
                object_maps = maps.read(key) if maps else None
                if object_maps is not None:
                    yield key, object_maps

    def remove(self) -> None:
        """Remove the folder.

        Raises:
            BrokenInputError: it holds files of somebody else, which stay.
        """
        for path in self.folder.iterdir():
            ours = path.name == _HEAD or path.name.startswith(("image_", ".image_", f".{_HEAD}"))
            if not ours or path.is_dir():
                raise BrokenInputError(f"Expected {self.folder} to hold an unfinished audit only, but found {path}.")
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()

    def _path(self, image_id: int) -> Path:
        return self.folder / f"image_{image_id}.json"

    def _maps(self, path: Path, part: AuditRecord) -> MapsFile | None:
        maps = maps_beside(path, part.maps)
        if self._with_maps and maps is None:
            raise BrokenInputError(f"Expected the maps of {path} beside it, but they are not there.")
        return maps

    def _difference(self) -> str:
        """Say why what is there does not fit; empty if it does."""
        try:
            head = read_json(self.folder / _HEAD, "the head of an unfinished audit", _MAX_HEAD_BYTES)
        except BrokenInputError as error:
            return str(error).rstrip(".")
        if not isinstance(head, dict):
            return "its head is damaged"
        different = differing_entries(head, self._head)
        return f"it differs in {', '.join(map(repr, different))}" if different else ""
