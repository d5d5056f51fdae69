import errno
import json
import math
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest

from odsg_lightning.data.coco_checks import load_coco_json
from odsg_lightning.detectors.weights.files import read_checkpoint_file
from odsg_lightning.errors import BrokenInputError, DiskError, MissingFileError, UserInputError
from odsg_lightning.files import (
    is_lfs_pointer,
    make_folder,
    read_json,
    regular_file,
    replaced,
    sha256_of,
    sha256_of_json,
    write_text,
    writing,
)
from odsg_lightning.records.audit_set import read_audit_set
from odsg_lightning.records.record import read_record
from odsg_lightning.training.ckpt_path import require_checkpoint
from odsg_lightning.yaml_files import read_yaml

# JSON ---------------------------------------------------------------------------------------------------------------


NO_JSON_AT_ALL = [
    (b"\xff\xfe\x00", "codec can't decode"),
    (b"[" * 100_000, "recursion"),
    (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"", r"\. Is it truncated\? Copy or download it again\.$"),
        (b'{"a": 1', "at line 1, column 8. Is it truncated"),
        (b'{"a" 1}', r"at line 1, column 6\.$"),  # it ends as it should: nothing is said of truncation
        (b'{"a": NaN}', "it holds NaN, where a number or null belongs"),
        (b'{"a": -Infinity}', "it holds -Infinity"),
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' comes twice"),
        *NO_JSON_AT_ALL,
    ],
)
def test_what_is_no_strict_json_is_refused(tmp_path, content, message):
    file = tmp_path / "record.json"
    file.write_bytes(content)
    with pytest.raises(BrokenInputError, match=message) as error:
        read_json(file, "a thing")
    assert f"Expected a thing at {file}" in str(error.value)


def test_strict_json_is_read(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1, null, "ä"]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json", "a thing") == {"a": [1, None, "ä"]}


def test_files_of_other_tools_may_hold_what_ours_may_not(tmp_path):
    path = tmp_path / "coco.json"
    path.write_text('{"area": NaN, "bbox": [Infinity, -Infinity], "id": 1, "id": 2}')
    content = read_json(path, "a COCO JSON file", strict=False)
    assert math.isnan(content["area"])
    assert (content["bbox"], content["id"]) == ([math.inf, -math.inf], 2)
    with pytest.raises(BrokenInputError, match="it holds NaN"):
        read_json(path, "a COCO JSON file")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "it is empty"), (b'{"images": [', "Is it truncated"), *NO_JSON_AT_ALL],
)
def test_what_is_no_json_at_all_is_refused_in_files_of_other_tools_too(tmp_path, content, message):
    path = tmp_path / "coco.json"
    path.write_bytes(content)
    with pytest.raises(BrokenInputError, match=f"Expected a COCO JSON file at {path}, but .*{message}"):
        read_json(path, "a COCO JSON file", strict=False)


def test_a_key_that_comes_twice_is_found_at_once_among_many(tmp_path):
    """In time that grows with the number of keys, not with its square: 200,000 would take minutes."""
    keys = [f"k{index}" for index in range(200_000)]
    (tmp_path / "a.json").write_text("{" + ",".join(f'"{key}":0' for key in [*keys, "k199999"]) + "}")
    code = f"from odsg_lightning.files import read_json; read_json({str(tmp_path / 'a.json')!r}, 'a thing')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=600)
    assert "the key 'k199999' comes twice" in done.stderr


# What is read in any case -------------------------------------------------------------------------------------------


def test_a_large_file_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(10 * 2**40)  # sparse: reading it would take hours
    with pytest.raises(BrokenInputError, match="of at most 64 MiB, but it has 10485760 MiB"):
        read_json(tmp_path / "huge.json", "a record")


def test_what_is_no_regular_file_is_refused(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe")
    for name, message in {
        "none": "No such file",
        "a": "symbolic links",
        ".": "it is a folder. Name the file in it",
        "pipe": "no regular file",
        "x" * 5000: "too long",
        "zero\0byte": "null",
    }.items():
        with pytest.raises(BrokenInputError, match=message) as caught:
            regular_file(f"{tmp_path}/{name}", "a record")
        assert isinstance(caught.value, MissingFileError) == (name == "none")


# Writing ------------------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fail_halfway():
        with replaced(path) as temporary:
            temporary.write_text("new, but not all of i")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        fail_halfway()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]  # nothing else is left
    write_text(path, "new")
    assert path.read_text() == "new"


def test_a_new_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "plain").touch()
    write_text(tmp_path / "ours", "x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserInputError, match=r"Expected to write .*out\.json, but No such file or directory"):
        write_text(tmp_path / "absent" / "out.json", "x")


def test_a_folder_is_not_written_over(tmp_path):
    with pytest.raises(UserInputError, match="there is a folder"):
        write_text(tmp_path, "x")


def failing(code):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.EACCES])
def test_a_disk_that_cannot_take_a_new_file_is_no_mistake_of_the_users(tmp_path, monkeypatch, code):
    monkeypatch.setattr(tempfile, "mkstemp", failing(code))
    with pytest.raises(DiskError, match=f"Expected to write {tmp_path / 'out'}, but {os.strerror(code)}") as caught:
        write_text(tmp_path / "out", "x")
    assert isinstance(caught.value, OSError)
    assert not isinstance(caught.value, ValueError)


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG])
def test_a_name_that_cannot_be_written_to_is_a_mistake_of_the_users(tmp_path, monkeypatch, code):
    monkeypatch.setattr(tempfile, "mkstemp", failing(code))
    with pytest.raises(UserInputError, match=f"Expected to write {tmp_path / 'out'}, but {os.strerror(code)}"):
        write_text(tmp_path / "out", "x")


def test_a_disk_that_fails_at_the_end_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "out"
    write_text(path, "old")
    monkeypatch.setattr(os, "replace", failing(errno.ENOSPC))
    with pytest.raises(DiskError, match=f"Expected to write {path}, but No space left on device"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_a_file_that_outgrows_the_disk_is_an_error_of_the_disk(tmp_path):
    """With a limit of 1 KiB on any file, which is how a user without rights can have a full disk."""
    code = f"""
import resource, signal
from pathlib import Path
from odsg_lightning.errors import DiskError
from odsg_lightning.files import write_text
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
try:
    write_text(Path({str(tmp_path / "out")!r}), "x" * 4096)
except DiskError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout == f"Expected to write {tmp_path / 'out'}, but File too large.\n"
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_with_an_input_stays_so_while_an_output_is_written(tmp_path):
    with pytest.raises(MissingFileError, match=f"Expected a thing at {tmp_path / 'none'}"), replaced(tmp_path / "out"):
        regular_file(tmp_path / "none", "a thing")
    assert list(tmp_path.iterdir()) == []


# Hashes -------------------------------------------------------------------------------------------------------------


def test_hash_of_json_depends_on_the_content_alone():
    assert sha256_of_json({"a": 1, "b": [1.5, None]}) == sha256_of_json(json.loads('{ "b": [1.5, null], "a": 1 }'))
    assert sha256_of_json({"a": 1}) != sha256_of_json({"a": 2})


def test_sha256_golden_value(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256_of(Path(tmp_path / "abc")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# Git LFS ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n",
        "version https://git-lfs.github.com/spec/v1\r\noid sha256:4d7a2146\r\nsize 12345\r\n",
        "version https://hawser.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n",
        "version https://git-lfs.github.com/spec/v1\next-0-foo sha256:99\noid sha256:4d7a2146\nsize 12345\n",
    ],
)
@pytest.mark.parametrize("read", [regular_file, read_json, read_yaml])
def test_git_lfs_pointers_are_recognised_by_every_reader(tmp_path, read, text):
    path = tmp_path / "a.ckpt"
    path.write_bytes(text.encode())
    with pytest.raises(BrokenInputError, match=r"a thing at .*a\.ckpt, but it is a Git LFS pointer.*: git lfs pull\.$"):
        read(path, "a thing")


def test_git_lfs_pointers_are_recognised_wherever_the_package_reads_a_file(tmp_path):
    readers = {
        "a.ckpt": read_checkpoint_file,
        "a.pth": read_checkpoint_file,
        "a.pkl": read_checkpoint_file,
        "record.json": read_record,
        "set.json": read_audit_set,
        "coco.json": load_coco_json,
        "last.ckpt": partial(require_checkpoint, resume=True, trust=False),
    }
    for name, read in readers.items():
        (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n")
        with pytest.raises(BrokenInputError, match=rf"{name}, but it is a Git LFS pointer.*: git lfs pull"):
            read(tmp_path / name)


@pytest.mark.parametrize("text", ["", "version https://x.org/1\n", '{"version": "https://git-lfs"}', "oid sha256:1"])
def test_what_is_no_git_lfs_pointer(tmp_path, text):
    (tmp_path / "a").write_text(text)
    assert not is_lfs_pointer(tmp_path / "a")
    assert not is_lfs_pointer(tmp_path / "none")


# Whose fault it is --------------------------------------------------------------------------------------------------

MACHINE = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.EACCES, errno.EPERM, errno.ENOMEM]
NAME = [errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST]


@pytest.mark.parametrize("code", [*MACHINE, *NAME])
def test_writing_files_and_folders_and_reading_tell_the_machine_and_the_name_apart(tmp_path, monkeypatch, code):
    (tmp_path / "in.json").write_text("{}")
    monkeypatch.setattr(Path, "mkdir", failing(code))
    monkeypatch.setattr(Path, "stat", failing(code))
    for action in (lambda: make_folder(tmp_path / "out"), lambda: read_json(tmp_path / "in.json", "a thing")):
        with pytest.raises(DiskError if code in MACHINE else ValueError, match=os.strerror(code)) as caught:
            action()
        assert isinstance(caught.value, DiskError) == (code in MACHINE)
    with pytest.raises(DiskError if code in MACHINE else UserInputError, match=os.strerror(code)), writing(tmp_path):
        failing(code)()


@pytest.mark.parametrize("read", [read_json, read_yaml])
def test_a_file_that_may_not_be_read_is_not_called_broken(tmp_path, monkeypatch, read):
    (tmp_path / "in").write_text("{}")
    monkeypatch.setattr(Path, "read_bytes", failing(errno.EACCES))
    monkeypatch.setattr(Path, "read_text", failing(errno.EACCES))
    with pytest.raises(DiskError, match=f"Expected a thing at {tmp_path / 'in'}, but Permission denied"):
        read(tmp_path / "in", "a thing")


def test_a_file_in_the_way_of_a_folder_is_a_mistake_of_the_users(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(UserInputError, match=f"Expected to write into the folder {tmp_path / 'out'}, but File exists"):
        make_folder(tmp_path / "out")


# What killed processes leave ----------------------------------------------------------------------------------------


def test_leftovers_of_a_killed_process_are_removed_and_those_of_a_running_one_are_not(tmp_path):
    path = tmp_path / "a[1].json"
    code = f"""
import os, sys, time
from pathlib import Path
from odsg_lightning.files import replaced
with replaced(Path({str(path)!r})) as temporary:
    temporary.write_text("half")
    print("ready", flush=True)
    time.sleep(600)
"""
    running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout.readline() == "ready\n"
        (tmp_path / ".a[1].json-mine").write_text("of somebody else")
        write_text(path, "one")
        assert len(list(tmp_path.glob(".a*"))) == 2
    finally:
        running.kill()
        running.wait()
    write_text(path, "two")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".a[1].json-mine", "a[1].json"]
