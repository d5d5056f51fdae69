"""The names of a detector's classes, which travel in its checkpoint."""

from collections.abc import Mapping
from typing import Any

from odsg_lightning.errors import BrokenInputError, UserInputError
from odsg_lightning.text import plain

CATEGORY_NAMES = "odsg_category_names"
"""Where in a checkpoint the names of the classes are, in the order of their labels."""

_MAX_NAMES = 100_000
_MAX_LETTERS = 1000


def category_names_in(content: Mapping[Any, Any], source: object) -> tuple[str, ...] | None:
    """Return the names of the classes that a checkpoint's content holds; None if it holds none.

    Args:
        content: of the checkpoint.
        source: its name, for the message.

    Raises:
        BrokenInputError: what is there are no names.
    """
    names = content.get(CATEGORY_NAMES)
    if names is not None and not _are_names(names):
        raise BrokenInputError(f"Expected {CATEGORY_NAMES!r} in {source} to be a list of names, but it is none.")
    return None if names is None else tuple(names)


def category_names_of(owner: object) -> tuple[str, ...] | None:
    """Return the attribute ``category_names`` of a module or data module; None where there is none of this form."""
    names: Any = getattr(owner, "category_names", None)
    return tuple(names) if _are_names(names) else None


def _are_names(names: Any) -> bool:
    return (
        isinstance(names, list | tuple)
        and len(names) <= _MAX_NAMES
        and all(isinstance(name, str) and 0 < len(name) <= _MAX_LETTERS for name in names)
    )


def require_same_categories(trained_on: tuple[str, ...] | None, names: tuple[str, ...] | None) -> None:
    """Refuse data whose labels mean other classes than the detector's; where either has no names, nothing is known.

    Args:
        trained_on: names of the detector's classes.
        names: of the data's categories, which may be the first of them only.

    Raises:
        UserInputError: they differ.
    """
    if trained_on and names and trained_on[: len(names)] != names:
        raise UserInputError(
            "Expected the data's categories to be those that the detector was trained on, in the same order, "
            f"{plain(str(list(trained_on)), 300)}, but got {plain(str(list(names)), 300)}. Renumber the categories of "
            "the annotations, or start from `weights` instead of a checkpoint."
        )
