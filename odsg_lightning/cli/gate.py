"""``odsg gate``, ``odsg baseline`` and ``odsg calibrate``."""

from typing import Any


def add(subcommands: Any) -> None:  # noqa: ANN401 - argparse's type is private
    """Describe the subcommands."""
