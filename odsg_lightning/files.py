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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped] # its stubs are not installed

from odsg_lightning.errors import BrokenInputError, DiskError, MissingFileError, OdsgError, UserInputError

MAX_JSON_BYTES = 64 * 2**20
"""Largest JSON file that is read: a record of 10,000 objects takes about a tenth of it."""

MAX_YAML_BYTES = 2**20
MAX_YAML_VALUES = 100_000
"""Values in a YAML file with its aliases written out, at most."""

LFS_POINTER = "it is a Git LFS pointer, not the file itself. Fetch the file: git lfs pull"
_LFS_POINTER = re.compile(rb"version https://\S+\s+(?:ext-\S+ \S+\s+)*oid \w+:")
_LFS_POINTER_BYTES = 1024  # the specification's limit

# What is wrong with the disk and not with the name that was given.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE, errno.EFBIG}


def regular_file(path: str | Path, what: str, max_bytes: int | None = None) -> Path:
    """Return the path if a regular file of an allowed size is there.

    Args:
        path: where it should be.
        what: what it should be, for the message, such as ``"an audit record"``.
        max_bytes: largest size, in bytes; None for any.

    Raises:
        MissingFileError: there is nothing.
        BrokenInputError: there is a folder, a device, a circle of links, too large a file, or a Git LFS pointer.
    """
    path = Path(path)
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise MissingFileError(f"Expected {what} at {path}, but {error.strerror}.") from error
    except OSError as error:  # below a file, a circle of symbolic links, a name too long
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
    except (OSError, ValueError, RecursionError) as error:  # unreadable, not UTF-8, a constant, absurd nesting
        raise BrokenInputError(f"Expected {what} at {path}, but {error}.") from error


class StrictYamlLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses a key that comes twice, of which YAML would keep the last."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Compose a mapping whose keys are unique, those aside that ``<<`` will merge: it may override them."""
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise ValueError(f"the key {key.value[:80]!r} comes twice in line {key.start_mark.line + 1}")
                seen.add((key.tag, key.value))
        return node


def read_yaml(path: str | Path, what: str, loader: type[StrictYamlLoader] = StrictYamlLoader) -> Any:
    """Read a YAML file as plain data: no tag that would construct an object is followed, let alone run.

    Args:
        path: the file.
        what: see :func:`regular_file`.
        loader: :class:`StrictYamlLoader`, or a subclass of it that knows more tags.

    Raises:
        BrokenInputError: see :func:`regular_file`; or the file is no YAML, holds a key twice in one mapping, or aliases
            that stand for more than :data:`MAX_YAML_VALUES` values.
    """
    path = regular_file(path, what, MAX_YAML_BYTES)
    try:
        reader = loader(path.read_text(encoding="utf-8"))
        try:
            node = reader.get_single_node()
            if node is None:
                return None
            if _written_out(node, {}) > MAX_YAML_VALUES:
                raise ValueError(f"its aliases stand for more than {MAX_YAML_VALUES} values")
            return reader.construct_document(node)
        finally:
            reader.dispose()
    except yaml.constructor.ConstructorError as error:
        problem, hint = str(error.problem)[:300], ""
        if problem.startswith("could not determine a constructor"):
            problem, hint = (
                f"it holds a YAML tag that would run code, which is refused: {problem}",
                " Write the value out.",
            )
        raise BrokenInputError(f"Expected {what} at {path}, but {problem}.{hint}") from error
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: not UTF-8, a date that is none
        raise BrokenInputError(f"Expected {what} at {path}, but {' '.join(str(error).split())[:300]}.") from error
    except Exception as error:  # what PyYAML raises of a value that does not fit its tag: KeyError, IndexError, ...
        raise BrokenInputError(f"Expected {what} at {path}, but a value does not fit its YAML tag: {error}.") from error


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

    Raises:
        UserInputError: ``path`` is a folder, or its folder does not exist or cannot be written to.
        DiskError: the disk is full, or fails.
    """
    if path.is_dir():
        raise UserInputError(f"Expected to write a file {path}, but there is a folder. Choose another name.")
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}-", suffix=path.suffix)
    except OSError as error:
        raise write_error(error)(f"Expected to write {path}, but {error.strerror}: {path.parent}.") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner reads
        os.replace(temporary, path)
    except OdsgError:
        raise
    except OSError as error:
        raise DiskError(f"Expected to write {path}, but {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        UserInputError: see :func:`replaced`.
        DiskError: see there.
    """
    with replaced(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_error(error: OSError) -> type[DiskError | UserInputError]:
    """Return whose fault it is that a file or folder cannot be made: the disk's, or that of the name given."""
    return DiskError if error.errno in _DISK_ERRORS else UserInputError


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


def _written_out(node: yaml.Node, known: dict[int, int]) -> int:
    """Return the number of values below a node as if each alias were a copy; an alias of itself has no end."""
    if id(node) not in known:
        known[id(node)] = MAX_YAML_VALUES + 1  # what it is while it is being counted
        children: list[Any] = []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        elif not isinstance(node, yaml.ScalarNode):
            children = node.value
        known[id(node)] = 1 + sum(_written_out(child, known) for child in children)
    return known[id(node)]
