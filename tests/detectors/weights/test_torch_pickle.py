"""Files of torch.save: what they may hold, that they hold it as plain values, and that none keeps the reader busy."""

import argparse
import io
import os
import pathlib
import pickle
import re
import time
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch

from odsg_lightning.detectors.weights.files import read_checkpoint_file
from odsg_lightning.detectors.weights.plain_values import values_written_out
from odsg_lightning.errors import BrokenInputError

OLD_AND_NEW = pytest.mark.parametrize("new", [True, False], ids=["zip", "before 1.6"])


def saved(path, content, new=True, **options):
    torch.save(content, path, _use_new_zipfile_serialization=new, **options)
    return path


class Calls:
    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


class Gadget:
    """Asks PyTorch to set the state of a thing that it makes."""

    def __init__(self, function, arguments, state):
        self.reduced = (function, arguments, state)

    def __reduce__(self):
        return self.reduced


@OLD_AND_NEW
def test_numbers_of_numpy_are_plain_values(tmp_path, new):
    arrays = {"grid": np.arange(6, dtype=np.float32).reshape(2, 3), "flags": np.array([True, False])}
    content = {
        "iteration": np.int64(7),
        "best": np.float64(0.5),
        "half": np.float16(0.25),
        "done": np.bool_(True),
        "by_class": {int(np.int64(3)): [np.float32(1.5)]},
        **arrays,
        "model": {"weight": torch.arange(3), "bias": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))},
        "milestones": Counter([3, 3]),
        "seen": {1, 2},
        "size": torch.Size([1, 2]),
        "dtype": torch.float16,
    }
    found = read_checkpoint_file(saved(tmp_path / "a.pth", content, new))
    assert {name: found[name] for name in ("iteration", "best", "half", "done", "by_class")} == {
        "iteration": 7,
        "best": 0.5,
        "half": 0.25,
        "done": True,
        "by_class": {3: [1.5]},
    }
    assert type(found["iteration"]) is int
    assert type(found["best"]) is float
    for name, array in arrays.items():
        assert np.array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert found["model"]["weight"].tolist() == [0, 1, 2]
    assert found["model"]["bias"].dtype == torch.bfloat16
    assert (found["milestones"], found["seen"], found["dtype"]) == (Counter({3: 2}), {1, 2}, torch.float16)


def test_a_state_dict_keeps_its_versions(tmp_path):
    state = torch.nn.BatchNorm2d(2).state_dict()
    found = read_checkpoint_file(saved(tmp_path / "a.pth", {"model": state}))["model"]
    assert found._metadata == state._metadata


def test_names_of_numpy_before_2_are_the_same(tmp_path):
    path = saved(tmp_path / "a.pth", {"best": np.float64(0.5), "grid": np.ones(2)})
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content.replace(b"numpy._core.", b"numpy.core."))
    found = read_checkpoint_file(path)
    assert found["best"] == 0.5
    assert found["grid"].tolist() == [1, 1]


def test_nothing_is_left_allowed_afterwards(tmp_path):
    path = saved(tmp_path / "a.pth", {"best": np.float64(0.5)})
    before = set(torch.serialization.get_safe_globals())
    read_checkpoint_file(path)
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


@OLD_AND_NEW
@pytest.mark.parametrize(
    ("value", "named"),
    [
        (pathlib.PosixPath("/x"), "asks for pathlib.PosixPath, which is refused"),
        (argparse.Namespace(a=1), "asks for argparse.Namespace, which"),
        (torch.nn.Linear(1, 1), "asks for torch.nn.modules.linear.Linear, which"),
        (np.array([{}], dtype=object), "asks for the array type 'O8'"),
        (np.array(["text"]), "asks for the array type 'U4'"),
        (np.datetime64("2026-01-01"), "asks for the array type 'M8'"),
        (np.random.default_rng(0), r"asks for numpy\.random\S+, which"),
        (Calls(os.system, "true"), "asks for posix.system, which"),
        (Calls(eval, "1"), "asks for builtins.eval, which"),
        (Calls(getattr, {}, "keys"), "asks for builtins.getattr, which"),
        (Calls(torch.load, "other.pth"), r"asks for torch\.serialization\.load, which"),
        (Calls(torch.hub.load, "a/b", "c"), r"asks for torch\.hub\.load, which"),
        (Calls(bytearray, 10**12), r"asks for builtins\.bytearray, which"),
        (Calls(torch.UntypedStorage, 10**12), "TypeError"),
        (Calls(torch.Tensor, 10**12), r"asks for torch\.Tensor, which"),
        (Calls(np.ndarray, (10**12,)), r"numpy\.ndarray to be called"),
        (Calls(np.empty(0).__reduce__()[0], np.ndarray, (10**12,), b"b"), r"an array made of .* \(1000000000000,\)"),
        (Calls(np.float64(1).__reduce__()[0], np.dtype("f8"), b"1234"), r"an array of shape \(\) made of 4 bytes"),
        (Calls(np.float64(1).__reduce__()[0], np.dtype("O"), {}), "the array type 'O8'"),
        (Gadget(OrderedDict, (), {"items": 1}), "to set attributes of OrderedDict"),
        (Gadget(Counter, (), {"items": 1}), "to set attributes of Counter"),
        ({2**200: 1}, "a key of type int"),
        ({torch.zeros(1): 1}, "a key of type _Aside"),
    ],
)
def test_anything_else_is_refused_by_name(tmp_path, new, value, named):
    with pytest.raises(BrokenInputError, match=named):
        read_checkpoint_file(saved(tmp_path / "a.pth", {"state_dict": {}, "more": [value]}, new))


def packed(path, content):
    """An archive with a hand-made pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (("data.pkl", content), ("version", b"3\n"), ("byteorder", b"little")):
            archive.writestr(f"a/{name}", data)
    return path


def nested(times, end):
    """Tuples of tuples, each twice in the next: 2**times values in a few bytes."""
    return b"K\x01\x85q\x010" + b"h\x01h\x01\x86q\x010" * times + b"h\x01" + end


BOMBS = {
    "key": b"\x80\x02}" + nested(45, b"K\x01s."),
    "keys": b"\x80\x02}(" + nested(45, b"K\x01u."),
    "dictionary": b"\x80\x02}X\x01\x00\x00\x00a(" + nested(45, b"K\x01ds."),
    "set": b"\x80\x02}X\x01\x00\x00\x00ac__builtin__\nset\n](" + nested(45, b"e\x85Rs."),
    "set of protocol 4": b"\x80\x04}X\x01\x00\x00\x00a\x8f(" + nested(45, b"\x90s."),
    "frozen set": b"\x80\x04}X\x01\x00\x00\x00a(" + nested(45, b"\x91s."),
    "pairs": b"\x80\x02}X\x01\x00\x00\x00accollections\nOrderedDict\n](" + nested(45, b"K\x01\x86e\x85Rs."),
    "counted": b"\x80\x02}X\x01\x00\x00\x00accollections\nCounter\n](" + nested(45, b"e\x85Rs."),
    "deep key": b"\x80\x02}K\x01" + b"\x85" * 100_000 + b"K\x01s.",
    "value": b"\x80\x02}X\x01\x00\x00\x00a" + nested(45, b"s."),
    "itself": b"\x80\x02}X\x01\x00\x00\x00a]q\x01h\x01as.",
    "steps": b"\x80\x02}X\x01\x00\x00\x00a(" + b"]" * 1_100_000 + b"ls.",
    "bytes": b"\x80\x02}X\x01\x00\x00\x00a(X" + (100_000).to_bytes(4, "little") + b"x" * 100_000 + b"q\x02"
    b"c_codecs\nencode\nq\x03" + b"h\x03h\x02\x85R" * 50_000 + b"ls.",
    "shape": b"\x80\x02}X\x01\x00\x00\x00acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
    + nested(45, b"K\x01\x87Rs."),
    "length": b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b".",
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("name", ["a.ckpt", "a.pkl", "old.pth"])
def test_a_small_file_that_asks_for_endless_work_is_refused(tmp_path, kind, name):
    path = tmp_path / name
    if name == "a.ckpt":
        packed(path, BOMBS[kind])
    elif name == "a.pkl":
        path.write_bytes(BOMBS[kind])
    else:
        head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}))
        path.write_bytes(head + BOMBS[kind] + pickle.dumps([], 2))
    started = time.process_time()
    with pytest.raises(BrokenInputError):
        read_checkpoint_file(path)
    assert time.process_time() - started < 10


def test_a_bomb_would_go_off():
    """With 45 replaced by 20 each of them takes a second or less; it doubles with every one more."""
    started = time.process_time()
    pickle._loads(b"\x80\x02}" + nested(20, b"K\x01s."))
    assert time.process_time() - started > 0.001


def test_two_pickles_in_one_archive_are_refused(tmp_path):
    path = saved(tmp_path / "a.pth", {"model": {}})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/DATA.pkl", b"\x80\x02}.")
    with pytest.raises(BrokenInputError, match="2 pickles in one archive"):
        read_checkpoint_file(path)


def test_a_tensor_longer_than_its_bytes_is_refused(tmp_path):
    path = saved(tmp_path / "a.pth", {"model": {"weight": torch.zeros(7)}})
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, re.sub(rb"(cpuq.)K\x07", b"\\1K\x7f", content, flags=re.DOTALL))
    with pytest.raises(BrokenInputError, match="a tensor of 127 values, which are not in the archive"):
        read_checkpoint_file(path)


def test_values_are_counted_as_if_each_were_a_copy():
    shared = [1, 2, 3]
    assert values_written_out({"a": shared, "b": shared}) == 1 + 2 + 2 * 4
    doubled = [1]
    for _ in range(60):
        doubled = [doubled, doubled]
    assert values_written_out(doubled, 1000) == 1001
    assert values_written_out(io.BytesIO()) == 1
    low = [1]
    assert values_written_out([low, [low], (low, [low])]) == 1 + 2 + 3 + (1 + 2 + 3)
