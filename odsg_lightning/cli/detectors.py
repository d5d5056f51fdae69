"""Options of every command that reads a detector's checkpoint."""

from pathlib import Path
from typing import Any

CHECKPOINT = "Lightning .ckpt, or Detectron2 .pth or .pkl with --config"


def add_detector(parser: Any, *, with_audit_set: bool = False) -> None:
    """Describe how a checkpoint is read, and on what it runs.

    Args:
        parser: gets the options.
        with_audit_set: whether there is one, to count the classes of.
    """
    parser.add_argument("--config", help="of a Detectron2 checkpoint: bare name, name of the model zoo, or YAML file")
    unless_given = " (default: as many as the audit set has categories)" if with_audit_set else ""
    parser.add_argument("--num-classes", type=int, help=f"of a Detectron2 checkpoint{unless_given}")
    parser.add_argument("--trust", action="store_true", help="read the checkpoint even if it may run any code")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: a GPU if there is one")


def add_own_module(parser: Any) -> None:
    """Describe a checkpoint of a class of the user's own."""
    parser.add_argument(
        "--module",
        metavar="PKG.MODULE:CLASS",
        help="of a LightningModule of your own: its class, which is imported, so only with --trust",
    )


def add_audit_set_files(parser: Any) -> None:
    """Describe where the files of an audit set lie."""
    parser.add_argument("--annotations", type=Path, help="the COCO file, if not where the audit set says")
    parser.add_argument("--images", type=Path, help="folder of its images, if not there")


def add_processes(parser: Any, shared_out: str) -> None:
    """Describe by how many processes the images of an audit set are shared out.

    Args:
        parser: gets the options.
        shared_out: what --devices does.
    """
    parser.add_argument("--devices", type=int, metavar="N", help=shared_out)
    parser.add_argument("--num-nodes", type=int, default=1, metavar="M", help="machines with --devices each")
