"""Reads Detectron2 YAML without running code, and writes a configuration back as plain data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped] # its stubs are not installed

_BASE_KEY = "_BASE_"
_MAX_BYTES = 2**20
_MAX_FILES = 32
_MAX_VALUES = 100_000


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file and the files that its ``_BASE_`` names; later files win.

    Detectron2's own reader falls back to ``yaml.unsafe_load``, which runs code that a file may hold; this one does not.

    Args:
        path: the file. A relative ``_BASE_`` (one name or a list) is looked up beside the file that names it.

    Raises:
        ValueError: a file is missing, is not readable as plain YAML, is no mapping, is its own base, or is larger, with
            its aliases written out or its bases read, than any configuration.
    """
    return _read(path, (), [])


def _read(path: Path, parents: tuple[Path, ...], seen: list[Path]) -> dict[str, Any]:
    """Read a file for its ``parents``; ``seen`` collects all files, because bases of bases could be millions."""
    path = path.expanduser().resolve()
    if path in parents:
        chain = " -> ".join(str(parent) for parent in (*parents, path))
        raise ValueError(f"Expected `_BASE_` to lead to another file, but got a circle: {chain}.")
    seen.append(path)
    if len(seen) > _MAX_FILES:
        raise ValueError(f"Expected `_BASE_` to lead to at most {_MAX_FILES} files, but got more: {parents[0]}.")
    content = _load_mapping(path)
    bases = content.pop(_BASE_KEY, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ValueError(f"Expected `_BASE_` in {path} to be a file name or a list of them.")
    merged: dict[str, Any] = {}
    for base in bases:
        if "://" in base:
            raise ValueError(f"Expected `_BASE_` in {path} to be a local file, but got {base!r}: download it first.")
        merged = _merged(merged, _read(path.parent / Path(base).expanduser(), (*parents, path), seen))
    return _merged(merged, content)


def _load_mapping(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"Expected a YAML file at {path}, but there is {'a folder' if path.is_dir() else 'none'}.")
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"Expected {path} to be a configuration of at most {_MAX_BYTES >> 10} KiB, but it has more.")
    try:
        content = _load_plain(path.read_text(encoding="utf-8"))
    except yaml.constructor.ConstructorError as error:
        raise ValueError(
            f"{path} holds a YAML tag that would run code, which is refused: {error.problem}. Write the value out (the "
            "files in configs/detectors/ do so for Detectron2's own)."
        ) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: not UTF-8, a date that is none
        raise ValueError(f"Expected {path} to be YAML, but it cannot be read: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"Expected {path} to hold a mapping of Detectron2 keys, but got {type(content).__name__}.")
    return content


def _load_plain(text: str) -> Any:  # noqa: ANN401 - any YAML value
    """Do as ``yaml.safe_load``, but refuse aliases of aliases of aliases that stand for billions of values."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _written_out(node, {}) > _MAX_VALUES:
            raise ValueError(f"its aliases stand for more than {_MAX_VALUES} values")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _written_out(node: yaml.Node, known: dict[int, int]) -> int:
    """Return the number of values below a node as if each alias were a copy; an alias of itself has no end."""
    if id(node) not in known:
        known[id(node)] = _MAX_VALUES + 1  # what it is while it is being counted
        children = (
            [child for pair in node.value for child in pair] if isinstance(node, yaml.MappingNode) else node.value
        )
        below = sum(_written_out(child, known) for child in children) if not isinstance(node, yaml.ScalarNode) else 0
        known[id(node)] = 1 + below
    return known[id(node)]


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def changed_values(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of ``config`` that differs from ``defaults``, as plain dicts, lists and scalars.

    Only the difference is kept because Detectron2 0.5 and 0.6 do not know the same keys: so a checkpoint written with
    one of them can be read with the other.
    """
    changes: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            old = defaults.get(key, {})
            nested = changed_values(value, old if isinstance(old, Mapping) else {})
            if nested:
                changes[key] = nested
        elif key not in defaults or defaults[key] != value:
            changes[key] = _plain(value)
    return changes


def _plain(value: Any) -> Any:  # noqa: ANN401 - any YAML value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
