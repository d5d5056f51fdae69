"""Reads Detectron2 YAML without running code, and writes a configuration back as plain data."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped] # its stubs are not installed

from odsg_lightning.errors import BrokenInputError
from odsg_lightning.yaml_files import StrictYamlLoader, read_yaml

_BASE_KEY = "_BASE_"
_MAX_FILES = 32

# The one expression in Detectron2's model zoo (Base-RetinaNet.yaml, and what people copied from it), and its value.
_ANCHOR_SIZES = "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]"
_EVALUATED = {_ANCHOR_SIZES: [[x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in (32, 64, 128, 256, 512)]}


class _ConfigLoader(StrictYamlLoader):
    """Knows the value of the model zoo's expression without running it; any other is refused."""

    def construct_known(self, node: yaml.Node) -> Any:
        words = self.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else []
        if len(words) == 1 and words[0] in _EVALUATED:
            return copy.deepcopy(_EVALUATED[words[0]])  # whoever gets it may change it
        return self.construct_undefined(node)


_ConfigLoader.add_constructor("tag:yaml.org,2002:python/object/apply:eval", _ConfigLoader.construct_known)


def read_config(path: Path) -> dict[str, Any]:
    """Read a YAML file and the files that its ``_BASE_`` names; later files win.

    Detectron2's own reader falls back to ``yaml.unsafe_load``, which runs code that a file may hold; this one refuses
    such tags (:func:`odsg_lightning.yaml_files.read_yaml`).

    Args:
        path: the file. A relative ``_BASE_`` (one name or a list) is looked up beside the file that names it.

    Raises:
        BrokenInputError: a file is missing, is not readable as plain YAML, is no mapping, is its own base, or is
            larger, with its aliases written out or its bases read, than any configuration.
    """
    return _read(path, (), [])


def _read(path: Path, parents: tuple[Path, ...], seen: list[Path]) -> dict[str, Any]:
    """Read a file for its ``parents``; ``seen`` collects all files, because bases of bases could be millions."""
    path = path.expanduser().resolve()
    if path in parents:
        chain = " -> ".join(str(parent) for parent in (*parents, path))
        raise BrokenInputError(f"Expected `_BASE_` to lead to another file, but got a circle: {chain}.")
    seen.append(path)
    if len(seen) > _MAX_FILES:
        raise BrokenInputError(f"Expected `_BASE_` to lead to at most {_MAX_FILES} files, but got more: {parents[0]}.")
    content = _load_mapping(path)
    bases = content.pop(_BASE_KEY, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise BrokenInputError(f"Expected `_BASE_` in {path} to be a file name or a list of them.")
    merged: dict[str, Any] = {}
    for base in bases:
        if "://" in base:
            raise BrokenInputError(
                f"Expected `_BASE_` in {path} to be a local file, but got {base!r}: download it first."
            )
        merged = _merged(merged, _read(path.parent / Path(base).expanduser(), (*parents, path), seen))
    return _merged(merged, content)


def _load_mapping(path: Path) -> dict[str, Any]:
    content = read_yaml(path, "a YAML file of Detectron2 keys", _ConfigLoader)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise BrokenInputError(
            f"Expected {path} to hold a mapping of Detectron2 keys, but got {type(content).__name__}."
        )
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


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
