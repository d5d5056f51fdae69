"""The checkpoint that a training goes on from, or that is evaluated: refused before anything else is read."""

from pathlib import Path

from odsg_lightning.detectors.weights.files import read_checkpoint_file
from odsg_lightning.errors import BrokenInputError, MissingFileError, UserInputError


def require_checkpoint(path: str | Path | None, *, resume: bool, trust: bool) -> None:
    """Refuse a file that is no checkpoint of Lightning, before the data are read and in one line.

    Args:
        path: the checkpoint. Addresses and the words for which Lightning looks up a path are left to it.
        resume: whether a training is to go on from it.
        trust: whether Lightning was told to let it run code (``--weights_only false``).

    Raises:
        BrokenInputError: see above.
        UserInputError: it holds weights without the state of the training that is to go on.
    """
    if path is None or str(path) in ("best", "last", "hpc") or "://" in str(path) or str(path).startswith("registry"):
        return
    if not Path(path).exists():
        raise MissingFileError(f"Expected a checkpoint at {path}, but No such file or directory.")
    if Path(path).is_dir():  # of a sharding strategy
        return
    content = read_checkpoint_file(Path(path), trust=trust)
    parts = content.get("state_dict"), content.get("hyper_parameters", {})
    if not all(isinstance(part, dict) for part in parts) or "pytorch-lightning_version" not in content:
        raise BrokenInputError(
            f"Expected {path} to be a checkpoint that Lightning wrote, but it is another one. To start from weights "
            "of Detectron2 or of an export, use --model.weights."
        )
    if resume and "optimizer_states" not in content:
        raise UserInputError(
            f"Expected {path} to hold the state of a training that can go on, but it holds weights only "
            "(save_weights_only=True). Write them out with DetectionModule.export_weights, and use --model.weights."
        )
