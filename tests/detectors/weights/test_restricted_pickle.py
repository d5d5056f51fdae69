import io
import os
import pickle
import pickletools
import struct
from collections import OrderedDict

import numpy as np
import pytest
import torch

from odsg_lightning.detectors.weights.restricted_pickle import RefusedPickleError, read_restricted_pickle


def read(tmp_path, content):
    (tmp_path / "w.pkl").write_bytes(content)
    return read_restricted_pickle(tmp_path / "w.pkl")


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_of_python_3(tmp_path, protocol):
    arrays = OrderedDict(
        (code, (np.arange(12) % 2).astype(code).reshape(3, 4))
        for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "?", ">f4", "<f8")
    )
    arrays["fortran"] = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    arrays["scalar"], arrays["empty"] = np.array(3.5), np.zeros((0, 4), np.float32)
    content = {"model": arrays, "__author__": "zoo", "plain": [1, 2.5, None, True, (b"x", "y"), 2**70, {1, "a"}]}
    scalars = [np.float64(1.5), np.int32(-2), np.bool_(True), np.float16(0.5), np.complex64(1j)]
    content["plain"].append(scalars)
    found = read(tmp_path, pickle.dumps(content, protocol=protocol))
    assert found["plain"] == content["plain"]
    assert type(found["model"]) is OrderedDict
    for name, array in arrays.items():
        assert found["model"][name].dtype == array.dtype.newbyteorder("=")
        assert np.array_equal(found["model"][name], array), name
        if array.dtype.isnative and array.dtype.kind == "f":
            assert torch.equal(torch.from_numpy(found["model"][name]), torch.from_numpy(array))


def python_2_pickle(shape=(2, 3), content=None, type_code=b"f4", asked_shape=b"(I0\nt"):
    """What `pickle.dumps({"conv1_w": array}, 2)` of Python 2 wrote: texts and bytes are one, and names are old."""
    content = np.arange(6, dtype="<f4").tobytes() if content is None else content
    text = lambda value: b"T" + struct.pack("<i", len(value)) + value  # noqa: E731
    lengths = b"".join(b"K" + bytes([length]) for length in shape)
    dtype = b"cnumpy\ndtype\n(" + text(type_code) + b"K\x00K\x01tRq\x02(K\x03" + text(b"<") + b"NNNJ\xff\xff\xff\xff"
    dtype += b"J\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + asked_shape + text(b"b") + b"tRq\x01"
    array += b"(K\x01(" + lengths + b"t" + dtype + b"\x89" + text(content) + b"tb"
    return b"\x80\x02}" + text(b"conv1_w") + array + b"s."


def test_a_pickle_of_python_2(tmp_path):
    content = python_2_pickle()
    pickletools.dis(content, out=io.StringIO())  # well formed
    expected = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(pickle.loads(content, encoding="latin1")["conv1_w"], expected)
    assert np.array_equal(read(tmp_path, content)["conv1_w"], expected)


class Calls:
    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    ("specimen", "named"),
    [
        (Calls(os.system, "true"), "posix.system|nt.system"),
        (Calls(eval, "1"), r"builtin.*\.eval"),
        (Calls(getattr, {}, "keys"), r"builtin.*\.getattr"),
        (np.array([{}], dtype=object), "array type 'O8'"),
        (np.zeros(2, dtype=[("a", "f4")]), "array type 'V4'"),
        (np.array(["text"]), "array type 'U4'"),
        (np.str_("text"), "array type 'U4'"),
        (np.datetime64("2026-01-01"), "array type 'M8'"),
        (np.dtype("f4").type, r"numpy\.float32"),
        (Calls(np.ndarray, (3,)), r"numpy\.ndarray to be called"),
        (Calls(np.empty(0).__reduce__()[0], np.ndarray, (10**12,), b"b"), r"function and \(1000000000000,\)"),
        (torch.zeros(1), "torch"),
        (slice(1), r"builtin.*\.slice"),
        (bytearray(b"x"), r"builtin.*\.bytearray"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_anything_else_is_refused_and_named(tmp_path, specimen, named, protocol):
    with pytest.raises((RefusedPickleError, TypeError), match=named):
        read(tmp_path, pickle.dumps({"model": {"a": specimen}}, protocol=protocol))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (python_2_pickle(shape=(200, 200)), "made of 24 bytes"),
        (python_2_pickle(asked_shape=b"(I9\nt"), r"\(9,\)"),
        (python_2_pickle(type_code=b"O8"), "array type 'O8'"),
        (b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.", "posix.system"),
        (b"(S'true'\nios\nsystem\n.", r"os\.system"),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.", "posix.system"),
        (b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.", "attributes of Called"),
        (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}X\x01\x00\x00\x00aK\x01sb.", "attributes of Called"),
        (b"\x80\x02\x8e" + struct.pack("<Q", 2**62) + b"x.", "^$"),
        (b"\x80\x02X\x01\x00\x00\x00ar\xff\xff\xff\x7f.", None),
    ],
)
def test_hand_made_specimens(tmp_path, content, named):
    if named is None:  # harmless
        assert read(tmp_path, content) == "a"  # remembered under number 2,147,483,647, which makes no room for them
        return
    with pytest.raises((RefusedPickleError, TypeError, AttributeError, EOFError), match=named):
        read(tmp_path, content)


def test_the_specimens_would_do_something_if_they_were_let(tmp_path):
    victim = tmp_path / "made"
    content = pickle.dumps(Calls(os.mkdir, str(victim)))
    with pytest.raises(RefusedPickleError, match="mkdir"):
        read(tmp_path, content)
    assert not victim.exists()
    pickle.loads(content)
    assert victim.exists()
