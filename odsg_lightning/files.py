"""Files of unknown origin are read with care, and files of ours appear whole or not at all."""

import errno
import hashlib
import json
import os
import re
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed anyway
    fcntl = None  # type: ignore[assignment]

from odsg_lightning.errors import BrokenInputError, DiskError, MissingFileError, OdsgError, UserInputError

MAX_JSON_BYTES = 64 * 2**20
"""Largest JSON file that is read: a record of 10,000 objects takes about a tenth of it."""

LFS_POINTER = "it is a Git LFS pointer, not the file itself. Fetch the file: git lfs pull"
_LFS_POINTER = re.compile(rb"version https://\S+\s+(?:ext-\S+ \S+\s+)*oid \w+:")
_LFS_POINTER_BYTES = 1024  # the specification's limit

# What is wrong with the name that was given. Anything else is wrong with the machine: no room, no permission, ...
_NAME_ERRORS = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EINVAL,
    errno.EILSEQ,
}


def regular_file(path: str | Path, what: str, max_bytes: int | None = None) -> Path:
    """Return the path if a regular file of an allowed size is there.

    Args:
        path: where it should be.
        what: what it should be, for the message, such as ``"an audit record"``.
        max_bytes: largest size, in bytes; None for any.

    Raises:
        MissingFileError: there is nothing.
        BrokenInputError: there is a folder, a device, a circle of links, too large a file, or a Git LFS pointer.
        DiskError: it may not be looked at, or the disk fails.
    """
    path = Path(path)
    try:
        status = path.stat()
    except OSError as error:
        raise read_error(error)(f"Expected {what} at {path}, but {error.strerror or error}.") from error
    except ValueError as error:  # a null byte in the name
        raise BrokenInputError(f"Expected {what} at {str(path)!r}, but {error}.") from error
    if stat.S_ISDIR(status.st_mode):
        raise BrokenInputError(f"Expected {what} at {path}, but it is a folder. Name the file in it.")
    if not stat.S_ISREG(status.st_mode):
        raise BrokenInputError(f"Expected {what} at {path}, but it is no regular file.")
    if max_bytes is not None and status.st_size > max_bytes:
        raise BrokenInputError(
            f"Expected {what} at {path} of at most {max_bytes / 2**20:.10g} MiB, but it has "
            f"{status.st_size / 2**20:.10g} MiB."
        )
    if is_lfs_pointer(path):
        raise BrokenInputError(f"Expected {what} at {path}, but {LFS_POINTER}.")
    return path


def is_lfs_pointer(path: Path) -> bool:
    """Return whether a file is the text that Git leaves in a file's place where Git LFS has not fetched it."""
    try:
        if not 0 < path.stat().st_size < _LFS_POINTER_BYTES:
            return False
        return bool(_LFS_POINTER.match(path.read_bytes()))
    except (OSError, ValueError):  # whoever reads it says why it cannot be read
        return False


def read_json(path: str | Path, what: str, max_bytes: int = MAX_JSON_BYTES, *, strict: bool = True) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        what: see :func:`regular_file`.
        max_bytes: largest size, in bytes.
        strict: refuse ``NaN`` and ``Infinity``, and a key that comes twice in one object. Files that other tools write
            are read without: they hold either now and then, and a large one takes three times as long.

    Raises:
        BrokenInputError: see :func:`regular_file`; or the file is no such JSON, or is truncated.
        DiskError: it may not be read, or the disk fails.
    """
    path = regular_file(path, what, max_bytes)
    hooks: dict[str, Any] = {"parse_constant": _refuse_constant, "object_pairs_hook": _unique} if strict else {}
    try:
        return json.loads(path.read_bytes(), **hooks)
    except json.JSONDecodeError as error:
        text = error.doc.rstrip()
        cause = f"{error.msg} at line {error.lineno}, column {error.colno}" if text else "it is empty"
        complete = text.endswith(("}", "]"))
        hint = "" if complete else " Is it truncated? Copy or download it again."
        raise BrokenInputError(f"Expected {what} at {path}, but {cause}.{hint}") from error
    except OSError as error:
        raise read_error(error)(f"Expected {what} at {path}, but {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, a constant, absurd nesting
        raise BrokenInputError(f"Expected {what} at {path}, but {error}.") from error


def sha256_of(path: Path) -> str:
    """Return the hash of a file's content, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(value: Any) -> str:
    """Return the hash of a JSON value, the same however its file is laid out.

    Example:
        >>> sha256_of_json({"a": 1, "b": 2}) == sha256_of_json({"b": 2, "a": 1})
        True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; what is written there replaces ``path``, unless an error is raised.

    What a process that was killed has left beside ``path`` is removed.

    Raises:
        UserInputError: ``path`` is a folder, or its folder does not exist.
        DiskError: the disk is full, or fails, or the folder may not be written to.
    """
    with unfinished(path) as temporary:
        yield temporary
        with writing(path):
            os.replace(temporary, path)


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Yield a new temporary path beside ``path``, removed in the end if it is still there.

    Raises:
        UserInputError: see :func:`replaced`.
        DiskError: see there.
    """
    with writing(path):
        if path.is_dir():
            raise UserInputError(f"Expected to write a file {path}, but there is a folder. Choose another name.")
        _remove_leftovers(path)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path), suffix=path.suffix)
        temporary = Path(name)
        try:
            if fcntl:
                fcntl.flock(handle, fcntl.LOCK_EX)  # until this process ends, in whatever way
            else:
                os.close(handle)
            temporary.chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner reads
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)
            if fcntl:
                os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        UserInputError: see :func:`replaced`.
        DiskError: see there.
    """
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, unless it is there.

    Raises:
        UserInputError: a file is in the way, or the name is none.
        DiskError: the disk is full, or fails, or the folder above may not be written to.
    """
    with writing(path, "write into the folder"):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def writing(path: Path, what: str = "write") -> Iterator[None]:
    """Turn an ``OSError`` within into the error that says whose fault it is that ``path`` cannot be written.

    Args:
        path: what is written.
        what: what is done to it, for the message.

    Raises:
        UserInputError: it is that of the name.
        DiskError: it is that of the machine: the disk is full, or fails, or nothing may be written there.
    """
    try:
        yield
    except OdsgError:
        raise
    except OSError as error:
        kind = UserInputError if error.errno in _NAME_ERRORS else DiskError
        raise kind(f"Expected to {what} {path}, but {error.strerror or error}.") from error


def read_error(error: OSError) -> type[OdsgError]:
    """Return whose fault it is that a file cannot be read: that of its name, or the machine's."""
    if isinstance(error, FileNotFoundError):
        return MissingFileError
    return BrokenInputError if error.errno in _NAME_ERRORS else DiskError


def _prefix(path: Path) -> str:
    return f".{path.name[:100]}-"


def in_use(temporary: Path) -> bool:
    """Whether the process that made a temporary file still runs: it holds a lock on it."""
    if fcntl is None:
        return False
    with temporary.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files of processes that were killed."""
    for leftover in path.parent.glob(f"{escape(_prefix(path))}????????{escape(path.suffix)}"):
        with suppress(OSError):
            if not in_use(leftover):
                leftover.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, where a number or null belongs")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {name[:80]!r} comes twice in one object")
    return result
