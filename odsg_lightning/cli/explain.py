"""``odsg explain``."""

import argparse
from pathlib import Path
from typing import Any

from odsg_lightning.cli.detectors import CHECKPOINT, add_detector
from odsg_lightning.cli.explainers import add_explainer, explainer_asked_for

_EXPLAIN = (
    "config", "num_classes", "trust", "device", "min_size", "max_size", "point", "target", "score_threshold",
    "max_objects", "labels", "classes", "against", "suppressed", "seed",
)  # fmt: skip
"""Options that are arguments by the same name."""


def add(subcommands: Any) -> None:
    """Describe the subcommand."""
    parser = subcommands.add_parser(
        "explain",
        help="the maps of any pictures, without an audit set",
        description="Which pixels does each number of a detection depend on? Writes one strip of maps per detection.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help=CHECKPOINT)
    parser.add_argument("pictures", type=Path, nargs="+", metavar="picture")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("explained"), help="folder, or of one picture a .png or .npz file"
    )
    chosen = parser.add_argument_group("which detections")
    chosen.add_argument("--score-threshold", type=float, default=0.5, help="those that score above this")
    chosen.add_argument("--class", dest="labels", nargs="+", type=_class, help="those of these classes, name or index")
    chosen.add_argument("--point", type=_point, metavar="X,Y", help="those whose box holds this pixel of the file")
    chosen.add_argument("--max-objects", type=int, default=5, help="the best so many of a picture")
    asked = parser.add_argument_group("what of them")
    asked.add_argument("--target", choices=["output", "logit"], help="what was returned, or the head's numbers before")
    asked.add_argument("--ask", dest="classes", nargs="+", type=_class, help="why not these classes? (logits)")
    asked.add_argument("--against", type=_class, help="why rather than this class? (difference of two logits)")
    asked.add_argument("--suppressed", action="store_true", help="anchors or regions that were suppressed, too")
    how = parser.add_argument_group("how")
    add_explainer(how, "smoothgrad", with_smoothgrads=True)
    how.add_argument("--seed", type=int, default=0, help="of the noise")
    how.add_argument("--min-size", type=int, help="shorter edge as the detector sees a picture (default: its own)")
    how.add_argument("--max-size", type=int, help="upper limit of the longer edge (default: its own)")
    add_detector(how)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    import warnings

    from odsg_lightning.checkpoints.explain import explain_pictures
    from odsg_lightning.text import plain

    warnings.filterwarnings("ignore", message=".*torch.meshgrid")  # PyTorch's, of Detectron2's code
    explained = explain_pictures(
        options.checkpoint,
        options.pictures,
        options.output,
        explainer=explainer_asked_for(options),
        **{name: getattr(options, name) for name in _EXPLAIN},
    )
    for picture, explanations in explained.items():
        print(f"{plain(str(picture), 200)}: {len(explanations) or 'nothing that was asked for is detected'}")
        for explanation in explanations:
            print(f"  {plain(explanation.title, 200)}")
    if any(explained.values()):
        print(f"Written: {options.output}")
    return 0


def _class(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def _point(text: str) -> tuple[float, float]:
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected X,Y in pixels, such as 120,80, but got {text!r}") from None
    return x, y
