"""Files of unknown origin are read with care, and files of ours appear whole or not at all."""

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MAX_JSON_BYTES = 64 * 2**20
"""Largest JSON file that is read: a record of 10,000 objects takes about a tenth of it."""


class BrokenInputError(ValueError):
    """A file that cannot be used: exit code 3 of the command line."""


def regular_file(path: str | Path, what: str, max_bytes: int | None = None) -> Path:
    """Return the path if a regular file of bearable size is there.

    Args:
        path: where it should be.
        what: what it should be, for the message, such as ``"an audit record"``.
        max_bytes: largest size, in bytes; None for any.

    Raises:
        BrokenInputError: there is nothing, a folder, a device, a circle of links, or too large a file.
    """
    path = Path(path)
    try:
        status = path.stat()
    except OSError as error:  # absent, a circle of symbolic links, a name too long
        raise BrokenInputError(f"Expected {what} at {path}, but {error.strerror or error}.") from error
    except ValueError as error:  # a null byte in the name
        raise BrokenInputError(f"Expected {what} at {str(path)!r}, but {error}.") from error
    if stat.S_ISDIR(status.st_mode):
        raise BrokenInputError(f"Expected {what} at {path}, but it is a folder. Name the file in it.")
    if not stat.S_ISREG(status.st_mode):
        raise BrokenInputError(f"Expected {what} at {path}, but it is no regular file.")
    if max_bytes is not None and status.st_size > max_bytes:
        raise BrokenInputError(
            f"Expected {what} at {path} of at most {max_bytes / 2**20:.0f} MiB, but it has "
            f"{status.st_size / 2**20:.0f} MiB."
        )
    return path


def read_json(path: str | Path, what: str, max_bytes: int = MAX_JSON_BYTES) -> Any:  # noqa: ANN401 - any JSON value
    """Read a JSON file strictly: no ``NaN`` or ``Infinity``, no key twice in one object.

    Raises:
        BrokenInputError: see :func:`regular_file`; or the file is no such JSON, or is truncated.
    """
    path = regular_file(path, what, max_bytes)
    try:
        return json.loads(path.read_bytes(), parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        cause = "it is empty" if not error.doc.strip() else f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise BrokenInputError(f"Expected {what} at {path}, but {cause}. Is it truncated?") from error
    except (OSError, ValueError, RecursionError) as error:  # unreadable, not UTF-8, a constant, absurd nesting
        raise BrokenInputError(f"Expected {what} at {path}, but {error}.") from error


def sha256_of(path: Path) -> str:
    """Return the hash of a file's content, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return the hash of a JSON value, the same however its file is laid out."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; what is written there replaces ``path``, unless an error is raised.

    Raises:
        ValueError: ``path`` is a folder, or its folder does not exist or cannot be written to.
    """
    if path.is_dir():
        raise ValueError(f"Expected to write a file {path}, but there is a folder. Choose another name.")
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}-", suffix=path.suffix)
    except OSError as error:
        raise ValueError(f"Expected to write {path}, but {error.strerror}: {path.parent}.") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner reads
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        ValueError: see :func:`replaced`.
    """
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, where a number or null belongs")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} comes twice in one object")
    return result
