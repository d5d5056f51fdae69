"""Reads checkpoint files of unknown origin: what they hold is data, or they are refused."""

import pickle
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from odsg_lightning.detectors.weights.plain_values import RefusedPickleError
from odsg_lightning.detectors.weights.restricted_pickle import read_restricted_pickle
from odsg_lightning.detectors.weights.torch_pickle import check_torch_file, numpy_as_plain_values
from odsg_lightning.errors import BrokenInputError
from odsg_lightning.files import regular_file

_LIFT = (
    "If you trust whoever made it, lift this with `odsg audit --trust`, `odsg fit --weights_only false`, or in Python "
    "trust=True: it may then run any code."
)


def read_checkpoint_file(path: Path, *, trust: bool = False) -> dict[Any, Any]:
    """Read a ``.ckpt`` or ``.pth`` file of PyTorch, or a ``.pkl`` file of Detectron2's model zoo.

    Args:
        path: the file; ``.pkl`` is recognised by its name.
        trust: read it with Python's own pickle, which runs whatever code the file names.

    Raises:
        BrokenInputError: there is no such file, it is no checkpoint, it is an archive larger than itself, or it holds
            something else than tensors, arrays and plain values: the message names it.
    """
    path = regular_file(path, "a checkpoint file (.ckpt, .pth or .pkl)")
    try:
        content = _read_pickle(path, trust) if path.suffix == ".pkl" else _read_torch(path, trust)
    except BrokenInputError:
        raise
    except Exception as error:  # whatever unpickling raises
        if isinstance(error, RefusedPickleError):
            raise BrokenInputError(
                f"Expected {path} to hold tensors, arrays and plain values only, but it asks for {error}, which is "
                f"refused. {_LIFT}"
            ) from error
        raise BrokenInputError(
            f"Expected {path} to be a Detectron2 checkpoint (.pth, or .pkl of the model zoo) or one of Lightning "
            f"(.ckpt), but it cannot be read as one: {type(error).__name__}: {_first_line(error)}."
        ) from error
    if not isinstance(content, dict):
        raise BrokenInputError(
            f"Expected {path} to hold a dictionary, as checkpoints do, but got {type(content).__name__}."
        )
    return content


def _read_pickle(path: Path, trust: bool) -> Any:
    if not trust:
        return read_restricted_pickle(path)
    with path.open("rb") as file:
        return pickle.load(file, encoding="latin1")


def _read_torch(path: Path, trust: bool) -> Any:
    with _archive(path) as archive:
        if trust:
            return torch.load(path, map_location="cpu", weights_only=False)
        check_torch_file(path, archive)
    with numpy_as_plain_values():
        return torch.load(path, map_location="cpu", weights_only=True)


def _first_line(error: Exception) -> str:
    message = str(error).partition("WeightsUnpickler error:")[2].strip() or str(error).strip()
    return message.partition("\n")[0][:500]


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile | None]:
    """Open a file of PyTorch 1.6 or later; of an earlier one yield None.

    Raises:
        BrokenInputError: it is what ``torch.save`` does not write: its archives hold plain data, uncompressed.
    """
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    if not is_zip:
        if tarfile.is_tarfile(path):
            raise BrokenInputError(f"Expected {path} to be written by PyTorch 0.4 or later, but it is a tar archive.")
        yield None
        return
    with zipfile.ZipFile(path) as archive:
        _refuse_strange_archives(path, archive.infolist())
        yield archive


def _refuse_strange_archives(path: Path, members: list[zipfile.ZipInfo]) -> None:
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise BrokenInputError(f"Expected {path} to be written by torch.save, but it is a compressed archive.")
    total, size = sum(member.file_size for member in members), path.stat().st_size
    if total > size:
        raise BrokenInputError(
            f"Expected {path} to be written by torch.save, but its members take {total} bytes in a file of {size}."
        )
    # torch.load hands TorchScript to another reader, which PyTorch before 2.6 did in spite of weights_only.
    if any(member.filename.endswith("/constants.pkl") for member in members):
        raise BrokenInputError(f"Expected {path} to hold weights, but it is a TorchScript program.")
