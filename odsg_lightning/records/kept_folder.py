"""A folder of finished images beside a head that says what they depend on, so that an interrupted run goes on.

Nothing here loads torch.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from odsg_lightning.errors import BrokenInputError, UserInputError
from odsg_lightning.files import make_folder, read_json, write_text
from odsg_lightning.records.record import differing_entries

log = logging.getLogger(__name__)

Found = TypeVar("Found")

_HEAD = "head.json"
_FAILED = f".{_HEAD}-failed"
_MAX_HEAD_BYTES = 2**20


class KeptFolder:
    """The folder of one unfinished run; its images are files that begin with ``image_``.

    Args:
        folder: of these files alone.
        head: everything that they depend on, as plain JSON values.
        kind: of run, for messages, such as ``"unfinished audit"``.
    """

    def __init__(self, folder: Path, head: Mapping[str, Any], kind: str) -> None:
        """See the class for the arguments. Nothing is written or read here."""
        self.folder = folder
        self._head = json.loads(json.dumps(dict(head)))
        self._kind = kind

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
            raise BrokenInputError(f"Expected {self.folder} to be a folder of an {self._kind}. Remove it.")
        if self.folder.is_dir() and any(self.folder.iterdir()):
            reason = throw_away or self._difference()
            if reason:
                log.warning("The %s in %s is thrown away: %s.", self._kind, self.folder, reason)
                self.remove()
        make_folder(self.folder)
        (self.folder / _FAILED).unlink(missing_ok=True)
        write_text(self.folder / _HEAD, json.dumps(self._head, indent=1, sort_keys=True) + "\n")

    def join(self, seconds: float = 60.0) -> None:
        """Take part in what another process has opened.

        Args:
            seconds: see :func:`wait_for`.

        Raises:
            UserInputError: it is not there, or depends on something else.
        """
        wait_for(self.folder / _HEAD, seconds)
        different = self._difference()
        if different:
            raise UserInputError(
                f"Expected all processes to have the {self._kind} in {self.folder} in common, but in one of them "
                f"{different}. Nodes must share a file system, and be alike."
            )

    @property
    def has_failed(self) -> bool:
        """Whether a process that takes part has failed."""
        return (self.folder / _FAILED).exists()

    def mark_failed(self) -> None:
        """Let those that take part know that this process has failed, if that can be written."""
        with suppress(OSError):
            (self.folder / _FAILED).touch()

    @property
    def is_empty(self) -> bool:
        """Whether no image is finished."""
        return not any(self.folder.glob("image_*"))

    def image(self, image_id: int) -> Path:
        """Return the file of an image."""
        return self.folder / f"image_{image_id}.json"

    def by_any(self, finished: Callable[..., Found | None], image_id: int, *which: Any) -> Found:
        """Return an image that some process has finished, maybe a moment ago.

        Args:
            finished: reads it, None if it is not there, given ``image_id`` and ``which``.
            image_id: of the image.
            which: of its objects.

        Raises:
            BrokenInputError: it is not there.
        """
        wait_for(self.image(image_id))
        found = finished(image_id, *which)
        if found is None:
            raise BrokenInputError(
                f"Expected image id {image_id} finished in {self.folder}, but it is gone. Start again."
            )
        return found

    def remove(self) -> None:
        """Remove the folder.

        Raises:
            BrokenInputError: it holds files of somebody else, which stay.
        """
        paths = list(self.folder.iterdir())
        for path in paths:
            ours = path.name == _HEAD or path.name.startswith(("image_", ".image_", f".{_HEAD}"))
            if not ours or path.is_dir():
                raise BrokenInputError(f"Expected {self.folder} to hold an {self._kind} only, but found {path}.")
        for path in paths:
            path.unlink()
        self.folder.rmdir()

    def _difference(self) -> str:
        """Say why what is there does not fit; empty if it does."""
        try:
            head = read_json(self.folder / _HEAD, f"the head of an {self._kind}", _MAX_HEAD_BYTES)
        except BrokenInputError as error:
            return str(error).rstrip(".")
        if not isinstance(head, dict):
            return "its head is damaged"
        different = differing_entries(head, self._head)
        return f"it differs in {', '.join(map(repr, different))}" if different else ""


def wait_for(path: Path, seconds: float = 60.0) -> None:
    """Wait until a file is there that another process has written: a network's file system shows it a little late.

    Args:
        path: the file.
        seconds: to wait at most; what reads the file says that it is missing.
    """
    until = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.2)
