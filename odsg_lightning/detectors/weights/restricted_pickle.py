"""Reads the model zoo's ``.pkl`` files without running anything that they hold.

A pickle is a program: it names functions and calls them. Here it may name seven, all of which make arrays of plain
numbers, bytes or an ordered dictionary, and none of which is NumPy's own: an array is allocated only for bytes that are
there.
"""

import io
import math
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np


class RefusedPickleError(ValueError):
    """The file asks for something else than arrays of numbers and plain containers; the message says for what."""


def read_restricted_pickle(path: Path) -> Any:
    """Read a pickle of arrays, numbers, texts, and of lists, tuples and dictionaries of them.

    Texts of Python 2 are read as latin1, as Detectron2 does.

    Args:
        path: the file.

    Returns:
        What it holds; its arrays are instances of a subclass of ``numpy.ndarray``.

    Raises:
        RefusedPickleError: it asks for anything else.
        Exception: whatever a damaged pickle raises.
    """
    # In memory, where no length that the file states can be larger than what is there.
    return _Unpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()


class _Array(np.ndarray[Any, Any]):
    """An array that takes its content from bytes of the right number only."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        content = content.encode("latin1") if isinstance(content, str) else content
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
            raise RefusedPickleError("an array of something else than numbers")
        if not all(type(length) is int and length >= 0 for length in shape):
            raise RefusedPickleError(f"an array of shape {str(shape)[:100]}")
        if math.prod(shape) * dtype.numpy.itemsize != len(content):
            raise RefusedPickleError(f"an array of shape {str(shape)[:100]} made of {len(content)} bytes")
        super().__setstate__((1, tuple(shape), dtype.numpy, bool(fortran), content))  # type: ignore[arg-type]


class _Dtype:
    """Stands for ``numpy.dtype``: a plain number type in a byte order."""

    __slots__ = ("numpy",)

    def __init__(self, code: str, *_: object) -> None:
        if not isinstance(code, str) or code not in {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "b1"}:
            raise RefusedPickleError(f"the array type {str(code)[:100]!r}")
        self.numpy = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        self.numpy = self.numpy.newbyteorder(state[1] if state[1] in ("<", ">", "|", "=") else "=")


class _ArrayType:
    """Stands for ``numpy.ndarray``, which a pickle names but need not call."""

    __slots__ = ()


class _Reconstruct:
    """Stands for NumPy's ``_reconstruct``: makes the empty array that is filled later."""

    __slots__ = ()

    def __call__(self, kind: object, shape: object, _: object) -> "_Array":
        if not isinstance(kind, _ArrayType) or shape != (0,):
            raise RefusedPickleError(f"an array made of {type(kind).__name__} and {str(shape)[:100]}")
        return _Array((0,), np.uint8)


class _Latin1:
    """Stands for ``_codecs.encode``: Python 3 writes bytes for Python 2 as a text."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str = "latin1") -> bytes:
        if encoding != "latin1" or not isinstance(text, str):
            raise RefusedPickleError(f"the encoding {str(encoding)[:100]!r}")
        return text.encode("latin1")


class _NoBytes:
    """Stands for ``bytes``, which Python 3 calls for an empty text of Python 2, and only so."""

    __slots__ = ()

    def __call__(self) -> bytes:
        return b""


# In Python, not in C: the C unpickler makes room for as many objects as the file says that it will hold.
class _Unpickler(pickle._Unpickler):  # type: ignore[name-defined, misc, unused-ignore]
    """Finds the names below and no others. The stand-ins have no attributes that a pickle could set."""

    _KNOWN: ClassVar[dict[tuple[str, str], Any]] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _Latin1(),
        ("__builtin__", "bytes"): _NoBytes(),
        ("numpy", "dtype"): _Dtype,
        ("numpy", "ndarray"): _ArrayType(),
        ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
        ("numpy._core.multiarray", "_reconstruct"): _Reconstruct(),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._KNOWN:
            raise RefusedPickleError(f"{module}.{name}"[:200])
        return self._KNOWN[module, name]
