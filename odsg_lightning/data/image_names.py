"""Image files found by the names that an annotation file gives them, on whatever system that was written."""

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from odsg_lightning.data.coco_problems import MISSING_FILES, BadRecordError


class ImageFolder:
    r"""Finds files below a folder by name.

    Windows writes ``sub\1.png`` where others write ``sub/1.png``; and macOS spells ``ö`` as two characters, which look
    like the one that others write. Such a name is taken for the file that it means, if that is the only one.
    """

    def __init__(self, folder: Path) -> None:
        """Look below ``folder``; its content is read when a name is not found as it stands."""
        self.folder = folder
        self._listings: dict[Path, list[str]] = {}

    def find(self, name: str) -> str:
        """Return the name of the file below the folder, with forward slashes if they are not the record's own.

        Raises:
            BadRecordError: there is no such file, or several that the name could mean; the message names the twins.
        """
        if os.path.isfile(self.folder / name):
            return name
        portable = PurePosixPath(name.replace("\\", "/"))
        twins = self._names(portable, _composed)
        if len(twins) == 1:
            return twins[0]
        if twins:
            raise BadRecordError(
                "images of which several files may be meant",
                f"expected one file {self.folder / name}, but there are {_spelled(twins)}, which differ in the Unicode "
                "normal form of their names; keep one of them",
            )
        separators = " (its Windows separators are read as /)" if "\\" in name else ""
        near = self._names(portable, _folded) or self._names(PurePosixPath(portable.name), _folded)
        hint = f"; there is {_spelled(near)}" if near else ""
        raise BadRecordError(
            MISSING_FILES, f"expected a file {self.folder / name}, but there is none{separators}{hint}"
        )

    def _names(self, path: PurePosixPath, canonical: Callable[[str], str]) -> list[str]:
        """Return the files whose names, part by part, have the same canonical form."""
        found = [PurePosixPath()]
        for part in path.parts:
            wanted = canonical(part)
            found = [
                below / entry
                for below in found
                for entry in self._entries(self.folder / below)
                if canonical(entry) == wanted
            ]
        return [str(below) for below in found if os.path.isfile(self.folder / below)]

    def _entries(self, folder: Path) -> list[str]:
        if folder not in self._listings:
            try:
                self._listings[folder] = sorted(os.listdir(folder))
            except (OSError, ValueError):  # no folder, or a name that no file system takes
                self._listings[folder] = []
        return self._listings[folder]


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _folded(name: str) -> str:
    return _composed(name).casefold()


def _spelled(names: list[str]) -> str:
    """Return names in ASCII, in which twins that look alike differ."""
    return " and ".join(ascii(name) for name in names[:3])
