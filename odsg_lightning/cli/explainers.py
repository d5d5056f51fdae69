"""The options of an explainer, the same in every command that makes maps."""

import argparse
import json
from typing import Any

from odsg_lightning.names import EXPLAINERS


def add_explainer(parser: Any, default: str, *, with_smoothgrads: bool = False) -> None:
    """Add ``--explainer`` and ``--explainer-setting``, which gives ``explainer_settings``: a dict, or None.

    Args:
        parser: gets the options.
        default: name of the explainer.
        with_smoothgrads: whether SmoothGrad's settings have options of their own, for :func:`explainer_asked_for`.
    """
    parser.add_argument("--explainer", choices=EXPLAINERS, default=default, help="how maps are made")
    parser.add_argument(
        "--explainer-setting",
        dest="explainer_settings",
        action=_Setting,
        metavar="NAME=VALUE",
        help="of another explainer than the first two, such as layer=res5 (docs/explainers.md)",
    )
    if with_smoothgrads:
        parser.add_argument("--n-samples", type=int, default=20, help="noisy copies of SmoothGrad")
        parser.add_argument("--sigma", type=float, default=0.05, help="of the noise, relative to the pixel range")


def explainer_asked_for(options: argparse.Namespace) -> Any:
    """Return the explainer with its settings. Loads PyTorch."""
    from odsg_lightning.explainers.by_name import make_explainer

    smoothgrads = {"n_samples": options.n_samples, "sigma": options.sigma}
    make_explainer("smoothgrad", **smoothgrads)  # a value out of range is refused whichever explainer runs
    own = smoothgrads if options.explainer == "smoothgrad" else {}
    return make_explainer(options.explainer, **{**own, **(options.explainer_settings or {})})


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
