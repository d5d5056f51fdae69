"""Small changes of a JSON value, to see what a reader makes of a file that is almost right."""

from collections.abc import Iterator
from typing import Any

VALUES = [None, True, False, -1, 0, 1, 1.5, 2**60, 1e301, float("inf"), "", "x", "\x00", [], {}, [1], {"a": 1}]
"""What a place is replaced with; ``json.dumps`` writes the infinity as ``Infinity``."""

CHANGES = ["replace", "delete", "add", "twice"]


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield every place of a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def change_at(content: Any, path: tuple, change: str, value: Any) -> None:
    """Change a value in place: one of :data:`CHANGES`, at a place of :func:`places` other than the whole."""
    for key in path[:-1]:
        content = content[key]
    if change == "replace":
        content[path[-1]] = value
    elif change == "delete":
        del content[path[-1]]
    elif change == "twice" and isinstance(content, list):
        content.append(content[path[-1]])
    elif isinstance(content, dict):
        content["new"] = value
