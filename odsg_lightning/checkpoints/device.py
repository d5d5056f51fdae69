"""Where a finished checkpoint runs."""

from typing import Literal

import torch

from odsg_lightning.errors import UserInputError

Device = Literal["auto", "cpu", "cuda"]


def choose_device(device: Device) -> torch.device:
    """Return a device that is there; ``"auto"`` is a GPU if there is one.

    Raises:
        UserInputError: there is none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserInputError(
            "Expected argument `device` to be one that is there, but got 'cuda', and PyTorch finds no GPU."
        )
    return torch.device(device)
