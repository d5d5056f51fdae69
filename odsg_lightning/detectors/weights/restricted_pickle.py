"""Reads pickles of unknown origin without running anything that they hold, and in time linear in their size.

A pickle is a program: it names functions and calls them. Here it may name a few, for each of which stands one of
:mod:`odsg_lightning.detectors.weights.plain_values`. A short pickle can also ask for endless work or memory, by naming
the same value again and again: steps, bytes made, keys of dictionaries and the size with all repetitions written out
are bounded.
"""

import io
import pickle
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from odsg_lightning.detectors.weights import plain_values
from odsg_lightning.detectors.weights.plain_values import (
    MAX_VALUES,
    PlainArray,
    PlainDtype,
    RefusedPickleError,
    require_plain_key,
    values_written_out,
)

MAX_STEPS = 2**20
"""Steps that build the content of a file, at most: a detector with its optimizer takes some 50,000."""


def read_restricted_pickle(path: Path) -> Any:
    """Read a pickle of arrays, numbers, texts, and of lists, tuples, sets and dictionaries of them.

    Texts of Python 2 are read as latin1, as Detectron2 does.

    Args:
        path: the file.

    Returns:
        What it holds; its arrays are instances of a subclass of ``numpy.ndarray``, its NumPy scalars plain numbers.

    Raises:
        RefusedPickleError: it asks for anything else, or stands for more than it could hold.
        Exception: whatever a damaged pickle raises.
    """
    # In memory, where no length that the file states can be larger than what is there.
    content = path.read_bytes()
    value = RestrictedUnpickler(io.BytesIO(content), len(content)).load()
    refuse_repetitions(value)
    return value


def refuse_repetitions(value: Any) -> None:
    """Refuse what stands for more values than a file could hold.

    Raises:
        RefusedPickleError: see above.
    """
    if values_written_out(value) > MAX_VALUES:
        raise RefusedPickleError(f"more than {MAX_VALUES} values, by repeating the same ones")


class Called:
    """Stands for a function that a pickle calls. It has no attributes that a pickle could set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        """Keep the function."""
        self._function = function

    def __call__(self, *args: Any) -> Any:
        """Call it."""
        return self._function(*args)


ARRAY_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    (f"numpy.{core}.{module}", name): function
    for core in ("core", "_core")  # before and since NumPy 2
    for module, name, function in (
        ("multiarray", "_reconstruct", plain_values.reconstruct),
        ("multiarray", "scalar", plain_values.scalar),
        ("numeric", "_frombuffer", plain_values.from_buffer),
    )
}
"""What stands for NumPy's functions that make arrays, by their names."""


# In Python, not in C: the C unpickler makes room for as many objects as the file says that it will hold.
class RestrictedUnpickler(pickle._Unpickler):  # type: ignore[name-defined, misc, unused-ignore]
    """Finds the names below and no others, and builds nothing but arrays, numbers and plain containers.

    Args:
        file: where the pickle begins. To read past its end must return what is there.
        size: its length in bytes.
    """

    known: ClassVar[dict[tuple[str, str], Any]] = {
        **{name: Called(function) for name, function in ARRAY_FUNCTIONS.items()},
        ("numpy", "dtype"): PlainDtype,
        ("numpy", "ndarray"): plain_values.array_type,
        ("_codecs", "encode"): Called(plain_values.latin1),
        ("builtins", "bytes"): Called(lambda: b""),  # an empty text of Python 2
        ("builtins", "complex"): Called(complex),
        ("builtins", "set"): Called(plain_values.container(set)),
        ("collections", "OrderedDict"): Called(plain_values.container(OrderedDict)),
        ("collections", "Counter"): Called(plain_values.container(Counter)),
    }

    def __init__(self, file: Any, size: int) -> None:
        """See the class for the arguments."""
        super().__init__(file, encoding="latin1")
        self.dispatch = _CountedSteps(_STEPS)  # type: ignore[misc, unused-ignore]
        self._bytes_left = 4 * size  # bytes of an array are a text first, then encoded, then copied

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name.

        Raises:
            RefusedPickleError: it is none of those that are known.
        """
        if self.proto < 3:  # type: ignore[attr-defined, unused-ignore] # names of Python 2
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        if (module, name) not in self.known:
            raise RefusedPickleError(f"{module}.{name}"[:200])
        return self.known[module, name]

    def _instantiate(self, kind: Any, args: Any) -> None:
        self.spend(args)
        super()._instantiate(kind, args)  # type: ignore[misc, unused-ignore]

    def spend(self, values: Any) -> None:
        """Count the bytes among arguments, which the call will copy."""
        if type(values) in (tuple, list):
            self._bytes_left -= sum(len(value) for value in values if isinstance(value, str | bytes | bytearray))
        if self._bytes_left < 0:
            raise RefusedPickleError("more bytes than it holds, by repeating the same ones")


# Steps that could do more than build plain values, checked first ------------------------------------------------------


class _CountedSteps(dict[int, Any]):
    left = MAX_STEPS

    def __getitem__(self, opcode: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise RefusedPickleError(f"more than {MAX_STEPS} steps to build its content")
        if opcode not in self:
            raise pickle.UnpicklingError(f"invalid load key {bytes([opcode])!r}")
        return super().__getitem__(opcode)


def _set_item(unpickler: Any) -> None:
    _require_dictionary(unpickler.stack[-3])
    require_plain_key(unpickler.stack[-2])
    unpickler.load_setitem()


def _set_items(unpickler: Any) -> None:
    _require_dictionary(unpickler.metastack[-1][-1])
    _require_plain_keys(unpickler.stack[::2])
    unpickler.load_setitems()


def _require_dictionary(value: Any) -> None:
    if type(value) not in (dict, OrderedDict, Counter):
        raise RefusedPickleError(f"to set an item of something else than a dictionary: {type(value).__name__}")


def _dictionary(unpickler: Any) -> None:
    _require_plain_keys(unpickler.stack[::2])
    unpickler.load_dict()


def _items_of_set(unpickler: Any) -> None:
    _require_plain_keys(unpickler.stack)
    unpickler.load_additems()


def _frozen_set(unpickler: Any) -> None:
    _require_plain_keys(unpickler.stack)
    unpickler.load_frozenset()


def _require_plain_keys(keys: list[Any]) -> None:
    for key in keys:
        require_plain_key(key)


def _reduce(unpickler: Any) -> None:
    unpickler.spend(unpickler.stack[-1])
    unpickler.load_reduce()


def _build(unpickler: Any) -> None:
    made, state = unpickler.stack[-2:]
    unpickler.spend(state)
    # PyTorch keeps the versions of a model's parts as an attribute of its weights; nothing else has attributes to set.
    versions = type(made) is OrderedDict and type(state) is dict and state.keys() <= {"_metadata"}
    if type(made) not in (PlainArray, PlainDtype) and not versions:
        raise RefusedPickleError(f"to set attributes of {type(made).__name__}")
    unpickler.load_build()


def _byte_array(unpickler: Any) -> None:
    """Read the content before making room for it."""
    length = int.from_bytes(unpickler.read(8), "little")
    content = unpickler.read(length)
    if len(content) < length:
        raise EOFError("Ran out of input")
    unpickler.append(bytearray(content))


_STEPS = {
    **pickle._Unpickler.dispatch,  # type: ignore[attr-defined, unused-ignore]
    pickle.SETITEM[0]: _set_item,
    pickle.SETITEMS[0]: _set_items,
    pickle.DICT[0]: _dictionary,
    pickle.ADDITEMS[0]: _items_of_set,
    pickle.FROZENSET[0]: _frozen_set,
    pickle.REDUCE[0]: _reduce,
    pickle.BUILD[0]: _build,
    pickle.BYTEARRAY8[0]: _byte_array,
}
