"""Reads Detectron2 YAML without running code, and writes a configuration back as plain data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped] # its stubs are not installed

_BASE_KEY = "_BASE_"


def read_yaml(path: Path, _parents: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a YAML file and the files that its ``_BASE_`` names; later files win.

    Detectron2's own reader falls back to ``yaml.unsafe_load``, which runs code that a file may hold; this one does not.

    Args:
        path: the file. A relative ``_BASE_`` (one name or a list) is looked up beside the file that names it.

    Raises:
        ValueError: a file is missing, is not readable as plain YAML, is no mapping, or is its own base.
    """
    path = path.expanduser().resolve()
    if path in _parents:
        chain = " -> ".join(str(parent) for parent in (*_parents, path))
        raise ValueError(f"Expected `_BASE_` to lead to another file, but got a circle: {chain}.")
    content = _load_mapping(path)
    bases = content.pop(_BASE_KEY, [])
    merged: dict[str, Any] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        if "://" in base:
            raise ValueError(f"Expected `_BASE_` in {path} to be a local file, but got {base!r}: download it first.")
        merged = _merged(merged, read_yaml(path.parent / Path(base).expanduser(), (*_parents, path)))
    return _merged(merged, content)


def _load_mapping(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"Expected a YAML file at {path}, but there is {'a folder' if path.is_dir() else 'none'}.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.constructor.ConstructorError as error:
        raise ValueError(
            f"{path} holds a YAML tag that would run code, which is refused: {error.problem}. Write the value out (the "
            "files in configs/detectors/ do so for Detectron2's own)."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"Expected {path} to be YAML, but it cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"Expected {path} to hold a mapping of Detectron2 keys, but got {type(content).__name__}.")
    return content


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
