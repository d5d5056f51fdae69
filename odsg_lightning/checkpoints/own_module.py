"""From the checkpoint of a LightningModule of the user's own to a module that can be audited. This runs its code."""

import importlib
import inspect
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from odsg_lightning.checkpoints.detector import require_finite
from odsg_lightning.detectors.resolve import resolve_adapter
from odsg_lightning.detectors.weights.category_names import category_names_in, category_names_of
from odsg_lightning.detectors.weights.files import read_checkpoint_file
from odsg_lightning.detectors.weights.tensor_names import named_as
from odsg_lightning.errors import BrokenInputError, UserInputError


def load_own_module(checkpoint: Path, name: str, *, trust: bool) -> tuple[nn.Module, tuple[str, ...] | None]:
    """Import a LightningModule by name, make it of a checkpoint's hyperparameters, and load its weights.

    Args:
        checkpoint: as Lightning's Trainer wrote it.
        name: ``"my_pkg.my_module:MyModule"``.
        trust: must be True: this runs the code of the module, and whatever the checkpoint names.

    Returns:
        The module, on the CPU, in evaluation mode; and the names of its classes, if the checkpoint has them or the
        module an attribute ``category_names``.

    Raises:
        UserInputError: there is no such class, it cannot be made of the hyperparameters, or it is no detector.
        BrokenInputError: the checkpoint cannot be read, does not fill the module, or holds weights that are not finite.
    """
    if not trust:
        raise UserInputError(f"Expected --trust with --module: {name} is imported, and its code runs.")
    kind = _imported(name)
    content = read_checkpoint_file(checkpoint, trust=True)
    state = content.get("state_dict")
    if not isinstance(state, dict):
        raise BrokenInputError(f"Expected {checkpoint} to be a Lightning checkpoint, but it holds no 'state_dict'.")
    module = _loaded(kind, name, content, checkpoint)
    try:
        resolve_adapter(module)
    except UserInputError as error:
        raise UserInputError(f"Expected {name} to be a detector that can be audited. {error}") from error
    require_finite(module, checkpoint)
    return module.eval(), category_names_in(content, checkpoint) or category_names_of(module)


def _imported(name: str) -> Any:
    """Return the class of that name."""
    place, colon, path = name.partition(":")
    if not (place and colon and path) or not all(part.isidentifier() for part in (*place.split("."), *path.split("."))):
        raise UserInputError(f"Expected --module to be like my_pkg.my_module:MyModule, but got {name!r}.")
    try:
        found: Any = importlib.import_module(place)
    except ModuleNotFoundError as error:
        missing = error.name is not None and f"{place}.".startswith(f"{error.name}.")
        hint = f"Run odsg where the folder or file {place.partition('.')[0]} lies, or install it." if missing else ""
        raise UserInputError(f"Expected to import {place}, but {error}. {hint}".rstrip()) from error
    except Exception as error:
        raise UserInputError(f"Expected to import {place}, but it raised {type(error).__name__}: {error}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            modules = [n for n, value in vars(found).items() if _is_lightning_module(value)]
            raise UserInputError(f"Expected {place} to have {path!r}, but its LightningModules are {sorted(modules)}.")
        found = getattr(found, part)
    if not _is_lightning_module(found):
        raise UserInputError(f"Expected {name} to be a subclass of LightningModule, but got {found!r}"[:500])
    return found


def _is_lightning_module(value: Any) -> bool:
    """Tell those of either Lightning package by what is needed of them."""
    return inspect.isclass(value) and issubclass(value, nn.Module) and hasattr(value, "load_from_checkpoint")


def _loaded(kind: Any, name: str, content: dict[Any, Any], checkpoint: Path) -> Any:
    """Let Lightning make the module and fill it; try the names without their wrappers where they do not fit."""
    options: dict[str, Any] = {"map_location": "cpu"}
    if "weights_only" in inspect.signature(kind.load_from_checkpoint).parameters:  # since Lightning 2.6
        options["weights_only"] = False
    try:
        try:
            return kind.load_from_checkpoint(checkpoint, **options)
        except RuntimeError:
            state = named_as((), content["state_dict"])
            if state.keys() == content["state_dict"].keys():
                raise
            renamed = io.BytesIO()
            torch.save(content | {"state_dict": state}, renamed)
            renamed.seek(0)
            return kind.load_from_checkpoint(renamed, **options)
    except Exception as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:2000]}"
        if "loading state_dict" in what:  # PyTorch's own words
            raise BrokenInputError(f"Expected {checkpoint} to fill {name}, but {what}") from error
        saved = content.get("hyper_parameters")
        known = f"holds {sorted(map(str, saved))}" if isinstance(saved, Mapping) and saved else "holds none"
        raise UserInputError(
            f"Expected to make {name} of the hyperparameters in {checkpoint}, which {known}, but {what}. Does its "
            "__init__ call self.save_hyperparameters()? If it cannot be made so, let its training write the records: "
            "ODSmoothGradCallback(save_records=True)."
        ) from error
