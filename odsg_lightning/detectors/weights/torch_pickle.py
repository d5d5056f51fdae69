"""Looks through the pickle inside a file of ``torch.save`` before PyTorch reads it, tensors aside.

PyTorch's own reader (``weights_only``) runs no code either, but it can be kept busy without end, says of what it
refuses a part only, and knows none of NumPy's numbers: here everything is bounded and named, and there NumPy's names
stand for plain numbers and arrays.
"""

import io
import mmap
import reprlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.serialization import StorageType, add_safe_globals, clear_safe_globals, get_safe_globals

from odsg_lightning.detectors.weights import plain_values
from odsg_lightning.detectors.weights.plain_values import PlainArray, PlainDtype, RefusedPickleError
from odsg_lightning.detectors.weights.restricted_pickle import (
    ARRAY_FUNCTIONS,
    Called,
    RestrictedUnpickler,
    refuse_repetitions,
)

_PICKLES_BEFORE_TORCH_1_6 = 5  # a magic number, the version, the machine, the content, the names of its storages


def check_torch_file(path: Path, archive: zipfile.ZipFile | None) -> None:
    """Refuse a file whose pickle asks for anything but tensors, arrays and plain values, or for endless work.

    Args:
        path: the file.
        archive: the same, opened; None for the format before PyTorch 1.6.

    Raises:
        RefusedPickleError: it asks for something else; the message says for what.
        Exception: whatever a damaged file raises.
    """
    if archive is None:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            for _ in range(_PICKLES_BEFORE_TORCH_1_6):
                refuse_repetitions(_TensorsAside(mapped, len(mapped)).load())
        return
    # PyTorch finds members by their names, upper case or lower.
    pickles = [member for member in archive.infolist() if member.filename.lower().endswith("/data.pkl")]
    if len(pickles) != 1:
        raise RefusedPickleError(f"{len(pickles)} pickles in one archive")
    content = archive.read(pickles[0])
    unpickler = _TensorsAside(io.BytesIO(content), len(content))
    folder = pickles[0].filename[: -len("data.pkl")]
    unpickler.storages = {
        member.filename.removeprefix(f"{folder}data/"): member.file_size for member in archive.infolist()
    }
    refuse_repetitions(unpickler.load())


class _Aside:
    """Stands for a tensor, and for what belongs to one."""

    __slots__ = ("bytes_each",)

    def __init__(self, bytes_each: int = 0) -> None:
        self.bytes_each = bytes_each


def _tensor(*_: object) -> _Aside:
    return _Aside()


_MAKES_TENSORS = {
    *(f"torch._utils._rebuild_{name}" for name in ("tensor", "tensor_v2", "tensor_v3", "parameter")),
    *("torch._utils._rebuild_parameter_with_state", "torch.Size", "torch.device"),
}


class _TensorsAside(RestrictedUnpickler):
    storages: Mapping[str, int] | None = None
    """Size of each storage in the archive, in bytes; None where they lie behind the pickle."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" in _MAKES_TENSORS:
            return Called(_tensor)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return _Aside()
        if module in ("torch", "torch.storage") and name.endswith("Storage"):
            return _Aside(_bytes_each(name))
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> _Aside:
        """Refuse a storage that is longer than what the archive has of it."""
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] not in ("storage", b"storage"):
            raise RefusedPickleError("something else than a tensor from the archive")
        _, kind, name, _, length = pid[:5]
        if self.storages is not None and (
            not isinstance(kind, _Aside)
            or type(length) is not int
            or not 0 <= length * kind.bytes_each <= self.storages.get(str(name), -1)
        ):
            raise RefusedPickleError(f"a tensor of {reprlib.repr(length)} values, which are not in the archive")
        return _Aside()


def _bytes_each(storage: str) -> int:
    """Return how many bytes a value of a storage class takes, such as 4 for ``FloatStorage``."""
    if storage in ("UntypedStorage", "TypedStorage"):
        return 1
    try:
        return int(StorageType(storage).dtype.itemsize)  # type: ignore[no-untyped-call]
    except KeyError as error:
        raise RefusedPickleError(f"torch.{storage}"[:200]) from error


# What NumPy's names stand for while PyTorch reads ---------------------------------------------------------------------


def _posing(function: Callable[..., Any], module: str, name: str) -> Callable[..., Any]:
    """Return a function that PyTorch takes for the one of that name: before 2.5 it looks at nothing else."""

    def pose(*args: Any) -> Any:
        return function(*args)

    pose.__module__, pose.__name__, pose.__qualname__ = module, name, name
    return pose


_NDARRAY = _posing(plain_values.array_type, "numpy", "ndarray")


def _reconstruct(kind: object, *args: Any) -> PlainArray:
    return plain_values.reconstruct(plain_values.array_type if kind is _NDARRAY else kind, *args)


_POSING: list[Any] = [
    PlainArray,
    _NDARRAY,
    type("dtype", (PlainDtype,), {"__slots__": (), "__module__": "numpy"}),
    *(
        _posing(_reconstruct if name == "_reconstruct" else function, module, name)
        for (module, name), function in ARRAY_FUNCTIONS.items()
    ),
]


@contextmanager
def numpy_as_plain_values() -> Iterator[None]:
    """Let ``torch.load(weights_only=True)`` make plain numbers and arrays of NumPy's, and nothing else of others."""
    before = list(get_safe_globals())
    clear_safe_globals()
    add_safe_globals(_POSING)
    try:
        yield
    finally:
        clear_safe_globals()
        add_safe_globals(before)
