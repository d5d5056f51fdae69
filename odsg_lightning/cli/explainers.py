"""The options of an explainer, the same in every command that makes maps."""

import argparse
import json
from typing import Any

from odsg_lightning.names import EXPLAINERS


def add_explainer(parser: Any, default: str) -> None:
    """Add ``--explainer`` and ``--explainer-setting``, which gives ``explainer_settings``: a dict, or None."""
    parser.add_argument("--explainer", choices=EXPLAINERS, default=default, help="how maps are made")
    parser.add_argument(
        "--explainer-setting",
        dest="explainer_settings",
        action=_Setting,
        metavar="NAME=VALUE",
        help="of another explainer than the first two, such as layer=res5 (docs/explainers.md)",
    )


class _Setting(argparse.Action):
    """Collects settings; numbers, true, false and null are what they are in JSON, the rest is text."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        name, equals, text = values.partition("=")
        if not name or not equals:
            raise argparse.ArgumentError(self, f"expected NAME=VALUE, but got {values!r}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        if isinstance(value, list | dict):
            raise argparse.ArgumentError(self, f"expected a number or a word, but got {text!r}")
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), name.replace("-", "_"): value})
