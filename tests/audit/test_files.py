import json
import os
from pathlib import Path

import pytest

from odsg_lightning.audit.files import BrokenInputError, read_json, regular_file, replaced, sha256_of_json, write_text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b'{"a": 1', "at line 1, column 8. Is it truncated"),
        (b'{"a": NaN}', "it holds NaN, where a number or null belongs"),
        (b'{"a": -Infinity}', "it holds -Infinity"),
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' comes twice"),
        (b"\xff\xfe\x00", "codec can't decode"),
        (b"[" * 100_000, "recursion"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
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
        with pytest.raises(BrokenInputError, match=message):
            regular_file(f"{tmp_path}/{name}", "a record")


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
    with pytest.raises(ValueError, match=r"Expected to write .*out\.json, but No such file or directory"):
        write_text(tmp_path / "absent" / "out.json", "x")


def test_a_folder_is_not_written_over(tmp_path):
    with pytest.raises(ValueError, match="there is a folder"):
        write_text(tmp_path, "x")


def test_hash_of_json_depends_on_the_content_alone():
    assert sha256_of_json({"a": 1, "b": [1.5, None]}) == sha256_of_json(json.loads('{ "b": [1.5, null], "a": 1 }'))
    assert sha256_of_json({"a": 1}) != sha256_of_json({"a": 2})


def test_sha256_golden_value(tmp_path):
    from odsg_lightning.audit.files import sha256_of

    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256_of(Path(tmp_path / "abc")) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
