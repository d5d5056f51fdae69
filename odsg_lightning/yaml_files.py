"""YAML files of unknown origin, read as plain data, strictly and in bounded time."""

from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped] # its stubs are not installed

from odsg_lightning.errors import BrokenInputError
from odsg_lightning.files import read_error, regular_file

MAX_YAML_BYTES = 2**17
"""Ten times the longest configuration of Detectron2; a few numbers of a MiB are worked on for a minute."""

MAX_YAML_VALUES = 20_000
"""Values in a YAML file with its aliases written out, at most."""


class StrictYamlLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses a key that comes twice, of which YAML would keep the last, and more values than any configuration has."""

    _values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a value, and count it."""
        self._values += 1
        if self._values > MAX_YAML_VALUES:
            raise ValueError(f"it holds more than {MAX_YAML_VALUES} values")
        return super().compose_node(parent, index)

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
        what: see :func:`odsg_lightning.files.regular_file`.
        loader: :class:`StrictYamlLoader`, or a subclass of it that knows more tags.

    Raises:
        BrokenInputError: see :func:`odsg_lightning.files.regular_file`; or the file is no YAML, holds a key twice in
            one mapping, or more than :data:`MAX_YAML_VALUES` values with its aliases written out.
        DiskError: it may not be read, or the disk fails.
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
    except OSError as error:
        raise read_error(error)(f"Expected {what} at {path}, but {error.strerror or error}.") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: not UTF-8, a date that is none
        raise BrokenInputError(f"Expected {what} at {path}, but {' '.join(str(error).split())[:300]}.") from error
    except Exception as error:  # what PyYAML raises of a value that does not fit its tag: KeyError, IndexError, ...
        raise BrokenInputError(f"Expected {what} at {path}, but a value does not fit its YAML tag: {error}.") from error


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
