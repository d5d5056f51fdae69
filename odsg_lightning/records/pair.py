"""A record and its maps, replaced together: whenever the process ends, the old pair or the new one can be read.

Two files cannot be renamed at once. So new maps wait beside the old ones under a hidden name that says their hash,
the record is replaced, and the maps take their place. Whoever reads in between finds them under the hidden name
(:func:`odsg_lightning.records.maps_file.maps_beside`).
"""

import os
from collections.abc import Callable
from glob import escape
from pathlib import Path
from typing import TypeVar

from odsg_lightning.errors import BrokenInputError
from odsg_lightning.files import in_use, read_json, sha256_of, unfinished, writing
from odsg_lightning.records.maps_file import maps_path, waiting_path

Written = TypeVar("Written")


def write_pair(
    path: Path, fill: Callable[[Path], None] | None, write: Callable[[dict[str, str] | None], Written]
) -> Written:
    """Write the maps of a record, and the record.

    Args:
        path: of the record.
        fill: writes the maps to the path that it gets; None for a record without maps, beside which none are left.
        write: writes the record, whole or not at all, with the entry ``maps`` that it gets.

    Returns:
        What ``write`` returned.

    Raises:
        UserInputError: a file cannot be written.
        DiskError: the disk is full, or fails, or nothing may be written there.
    """
    maps = maps_path(path)
    _finish_earlier(path, maps)
    if fill is None:
        written = write(None)
        with writing(maps):
            maps.unlink(missing_ok=True)
        return written
    with unfinished(maps) as temporary:
        fill(temporary)
        entry = {"file": maps.name, "sha256": sha256_of(temporary)}
        waiting = waiting_path(maps, entry["sha256"])
        os.replace(temporary, waiting)
        try:
            written = write(entry)
        except BaseException:
            _settle(waiting, path, maps)
            raise
        os.replace(waiting, maps)
    return written


def _finish_earlier(path: Path, maps: Path) -> None:
    """Finish, or undo, what a process began that was killed; one that still runs is left alone."""
    with writing(maps):
        for waiting in maps.parent.glob(escape(str(waiting_path(Path(maps.name), ""))).replace("-.npz", "-*.npz")):
            if not in_use(waiting):
                _settle(waiting, path, maps)


def _settle(waiting: Path, path: Path, maps: Path) -> None:
    """Let waiting maps take their place if the record there names them; otherwise remove them."""
    try:
        content = read_json(path, "an audit record")
    except BrokenInputError:  # none, or none that could be used with maps
        content = None
    entry = content.get("maps") if isinstance(content, dict) else None
    named = entry.get("sha256") if isinstance(entry, dict) else None
    if isinstance(named, str) and waiting == waiting_path(maps, named):
        os.replace(waiting, maps)
    else:
        waiting.unlink()
