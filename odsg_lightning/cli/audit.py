"""``odsg audit-set`` and ``odsg audit``."""

from typing import Any


def add(subcommands: Any) -> None:  # noqa: ANN401 - argparse's type is private
    """Describe the subcommands."""
