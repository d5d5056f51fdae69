"""Keeps the finished images of an audit on disk, so that an interrupted one goes on where it stopped.

Each image is a record of its own, with its maps, in a folder beside the output: it is written and read as any other.
Nothing here loads torch.
"""

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from odsg_lightning.errors import BrokenInputError
from odsg_lightning.records.kept_folder import KeptFolder
from odsg_lightning.records.maps_file import Key, MapsFile, ObjectMaps, maps_beside
from odsg_lightning.records.record import (
    AuditRecord,
    ObjectRow,
    read_record,
    write_record_with_maps,
)

log = logging.getLogger(__name__)


class PartialAudit(KeptFolder):
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
        self._record = record
        self._with_maps = with_maps
        head = {
            "fingerprint": dict(record.fingerprint),
            "provenance": dict(record.provenance),
            "settings": dict(settings),
            "with_maps": with_maps,
        }
        super().__init__(output.with_name(f".{output.stem}.partial"), head, "unfinished audit")

    def finished(self, image_id: int, annotation_ids: Iterable[int]) -> tuple[ObjectRow, ...] | None:
        """Return the rows of an image; None if it is not finished, or what is there is damaged.

        Args:
            image_id: the image.
            annotation_ids: its audited objects.
        """
        path = self.image(image_id)
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
        write_record_with_maps(part, self.image(objects[0].image_id), sorted(maps.items()) if self._with_maps else None)

    def maps(self, image_ids: Iterable[int]) -> Iterable[tuple[Key, ObjectMaps]]:
        """Yield the maps of all finished images, in ascending key.

        Raises:
            BrokenInputError: they have changed since.
        """
        for image_id in sorted(image_ids):
            path = self.image(image_id)
            maps = self._maps(path, read_record(path))
            for key in sorted(maps.keys) if maps else ():
                object_maps = maps.read(key) if maps else None
                if object_maps is not None:
                    yield key, object_maps

    def _maps(self, path: Path, part: AuditRecord) -> MapsFile | None:
        maps = maps_beside(path, part.maps)
        if self._with_maps and maps is None:
            raise BrokenInputError(f"Expected the maps of {path} beside it, but they are not there.")
        return maps
