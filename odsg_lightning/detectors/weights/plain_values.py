"""What a pickle of unknown origin may make: arrays of plain numbers, numbers, bytes, and containers with plain keys.

Each function stands for one that pickles name, and takes what the pickle says with care: an array is allocated only for
bytes that are there.
"""

import math
import reprlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

MAX_VALUES = 10_000_000
"""Values in a file with its repetitions written out, at most."""

_MAX_KEY_PARTS = 64
_MAX_DIMENSIONS = 32
_NUMBERS = {"f2", "f4", "f8", "c8", "c16", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}


class RefusedPickleError(ValueError):
    """The file asks for something else than arrays of numbers and plain containers; the message says for what."""


# Arrays and numbers ---------------------------------------------------------------------------------------------------


class PlainArray(np.ndarray[Any, Any]):
    """An array that takes its content from bytes of the right number only."""

    def __setstate__(self, state: Any) -> None:
        """Fill the empty array that :func:`reconstruct` has made."""
        _, shape, dtype, fortran, content = state
        shape, content = _checked(shape, dtype, content)
        super().__setstate__((1, shape, dtype.numpy, bool(fortran), content))  # type: ignore[arg-type]


class PlainDtype:
    """Stands for ``numpy.dtype``: a plain number type in a byte order."""

    __slots__ = ("numpy",)

    def __init__(self, code: Any, *_: object) -> None:
        """Refuse anything but numbers of fixed size."""
        if not isinstance(code, str) or code not in _NUMBERS:
            raise RefusedPickleError(f"the array type {reprlib.repr(code)}")
        self.numpy = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        """Set the byte order."""
        self.numpy = self.numpy.newbyteorder(state[1] if state[1] in ("<", ">", "|", "=") else "=")


def array_type(*_: object) -> None:
    """Stand for ``numpy.ndarray``, which a pickle names but need not call."""
    raise RefusedPickleError("numpy.ndarray to be called")


def reconstruct(kind: object, shape: object, _: object) -> PlainArray:
    """Make the empty array that is filled later, as NumPy's ``_reconstruct`` does."""
    if kind is not array_type or shape != (0,):
        raise RefusedPickleError(f"an array made of {type(kind).__name__} and {reprlib.repr(shape)}")
    return PlainArray((0,), np.uint8)


def from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    """Make an array as pickles of protocol 5 ask for it, as NumPy's ``_frombuffer`` does."""
    shape, content = _checked(shape, dtype, content)
    if order not in ("C", "F"):
        raise RefusedPickleError(f"an array in the order {reprlib.repr(order)}")
    array = np.frombuffer(content, dtype.numpy).reshape(shape, order=order)
    return array.astype(dtype.numpy.newbyteorder("="))  # a copy, which may be written to


def scalar(dtype: Any, content: Any) -> Any:
    """Return a NumPy scalar as a plain number."""
    _, content = _checked((), dtype, content)
    return np.frombuffer(content, dtype.numpy)[0].item()


def _checked(shape: Any, dtype: Any, content: Any) -> tuple[tuple[int, ...], bytes]:
    """Return the shape and the bytes of an array, or refuse one that is not made of exactly these bytes."""
    content = content.encode("latin1") if isinstance(content, str) else content
    if not isinstance(dtype, PlainDtype) or not isinstance(content, bytes | bytearray):
        raise RefusedPickleError("an array of something else than numbers")
    if (
        not isinstance(shape, tuple)
        or len(shape) > _MAX_DIMENSIONS
        or not all(type(length) is int and 0 <= length < 2**63 for length in shape)
    ):
        raise RefusedPickleError(f"an array of shape {reprlib.repr(shape)}")
    if math.prod(shape) * dtype.numpy.itemsize != len(content):
        raise RefusedPickleError(f"an array of shape {reprlib.repr(shape)} made of {len(content)} bytes")
    return shape, bytes(content)


def latin1(text: Any, encoding: Any = "latin1") -> bytes:
    """Return bytes, which Python 3 writes for Python 2 as a text."""
    if encoding != "latin1" or not isinstance(text, str):
        raise RefusedPickleError(f"the encoding {reprlib.repr(encoding)}")
    return text.encode("latin1")


# Containers -----------------------------------------------------------------------------------------------------------


def container(kind: type[Any]) -> Callable[..., Any]:
    """Return what makes a set or a dictionary of a kind, with plain keys only."""

    def make(items: Any = ()) -> Any:
        if not isinstance(items, list | tuple | dict):
            raise RefusedPickleError(f"{kind.__name__} of {type(items).__name__}")
        pairs = kind is OrderedDict and not isinstance(items, dict)
        for item in items:
            require_plain_key(item[0] if pairs and isinstance(item, list | tuple) and item else item)
        return kind(items)

    return make


def require_plain_key(key: Any) -> None:
    """Refuse what takes long to hash or to compare: all but texts, numbers and short tuples of them."""
    waiting, parts = [key], 0
    while waiting:
        part = waiting.pop()
        parts += len(part) if type(part) is tuple else 1
        if parts > _MAX_KEY_PARTS:
            raise RefusedPickleError(f"a key of more than {_MAX_KEY_PARTS} parts in a dictionary or set")
        if type(part) is tuple:
            waiting.extend(part)
        # Python hashes integers by a known modulus: larger ones could be chosen to collide.
        elif not (isinstance(part, str | bytes | float | type(None)) or (isinstance(part, int) and abs(part) < 2**63)):
            raise RefusedPickleError(f"a key of type {type(part).__name__} in a dictionary or set")


def values_written_out(value: Any, limit: int = MAX_VALUES) -> int:
    """Return how many values there are in nested containers if each repetition is a copy; ``limit + 1`` for more.

    Example:
        >>> twice = [1, 2]
        >>> values_written_out([twice, twice])  # the outer list, two inner ones, two numbers in each
        7
    """
    counts: dict[int, int] = {}
    begun: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting[-1]
        inner = _inner(item) if id(item) not in counts or id(item) in begun else []
        if id(item) not in counts:
            counts[id(item)] = limit + 1  # what it is while it is counted: something inside itself has no end
            begun.add(id(item))
            waiting.extend({id(child): child for child in inner if id(child) not in counts}.values())
            if waiting[-1] is not item:
                continue
        if id(item) in begun:
            counts[id(item)] = min(limit + 1, 1 + sum(counts[id(child)] for child in inner))
            begun.remove(id(item))
        waiting.pop()
    return counts[id(value)]


def _inner(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return list(value) if isinstance(value, list | tuple | set | frozenset) else []
