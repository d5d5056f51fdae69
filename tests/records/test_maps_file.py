import hashlib
import io
import re
import zipfile

import numpy as np
import pytest
from PIL import Image

from odsg_lightning.errors import BrokenInputError
from odsg_lightning.records.maps_file import MAX_SIDE, MapsFile, ObjectMaps, maps_beside, maps_writer

KEY = (7, 42)


def picture(size=(20, 10), kind="WEBP") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, "red").save(stream, kind)
    return stream.getvalue()


def some_maps(seed=0, height=9, width=13) -> ObjectMaps:
    rng = np.random.default_rng(seed)
    maps = rng.random((5, height, width)).astype(np.float16)
    maps[4] = np.nan
    return ObjectMaps(maps, rng.random((5, height, width)) > 0.5, picture())


def write(path, objects) -> None:
    with maps_writer(path) as writer:
        for key, found in objects.items():
            writer.add(key, found)


def rewrite(path, **members: bytes) -> None:
    """Replace members, as somebody would who wishes us ill."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (content | {f"7_42.{name}.npy": data for name, data in members.items()}).items():
            archive.writestr(name, data)


def npy(array) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    return stream.getvalue()


def header(shape: str, dtype="<f2") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (117 - len(text)) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def test_what_is_written_is_read(tmp_path):
    objects = {KEY: some_maps(), (-3, 1): some_maps(1, 192, 7)}
    write(tmp_path / "a.npz", objects)
    found = MapsFile(tmp_path / "a.npz")
    assert found.keys == set(objects)
    for key, want in objects.items():
        got = found.read(key)
        np.testing.assert_array_equal(got.maps, want.maps)
        np.testing.assert_array_equal(got.foreground, want.foreground)
        assert got.strip == want.strip == found.strip(key)
    assert found.read((1, 1)) is None
    assert found.strip((1, 1)) == b""


def test_numpy_reads_it_too(tmp_path):
    write(tmp_path / "a.npz", {KEY: some_maps()})
    with np.load(tmp_path / "a.npz") as archive:
        np.testing.assert_array_equal(archive["7_42.maps"], some_maps().maps)


def test_equal_objects_are_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.npz", {KEY: some_maps()})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_shapes_that_disagree_are_refused(tmp_path):
    with pytest.raises(ValueError, match=re.escape("[5, h, w], but got [5, 2, 2] and [5, 2, 3]")):
        write(tmp_path / "a.npz", {KEY: ObjectMaps(np.zeros((5, 2, 2), np.float16), np.zeros((5, 2, 3), bool))})


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"maps": npy(np.zeros((5, MAX_SIDE + 1, 2), np.float16))}, r"maps of shape \[5, 193, 2\]"),
        ({"maps": npy(np.zeros((4, 2, 2), np.float16))}, r"maps of shape \[4, 2, 2\]"),
        ({"maps": npy(np.zeros((5, 0, 2), np.float16))}, r"maps of shape \[5, 0, 2\]"),
        ({"maps": npy(np.zeros((5, 2, 2), np.float32))}, "maps of type float32"),
        ({"maps": npy(np.array([print], dtype=object))}, "maps of type object"),
        ({"maps": header("(5, 1000000, 1000000)")}, r"maps of type float16 and shape \[5, 1000000, 1000000\]"),
        ({"maps": header("(5, 9, 13)") + b"\0" * 7}, "truncated maps"),
        ({"maps": header("(5, -9, 13)")}, "maps"),
        ({"maps": b"no array"}, "damaged maps"),
        ({"foreground": npy(np.zeros((5, 14), np.uint8))}, r"foreground of shape \[5, 14\]"),
        ({"strip": npy(np.frombuffer(b"<svg onload=alert(1)>", np.uint8))}, "a strip that is no picture"),
        ({"strip": npy(np.frombuffer(picture(kind="PNG"), np.uint8))}, "a strip that is no picture"),
        ({"strip": npy(np.frombuffer(picture((4000, 2000)), np.uint8))}, "a strip of 4000x2000 pixels"),
        ({"strip": npy(np.frombuffer(picture()[:-30], np.uint8))}, "a strip that is no picture"),
    ],
)
def test_what_no_audit_writes_is_refused(tmp_path, members, message):
    write(tmp_path / "a.npz", {KEY: some_maps()})
    rewrite(tmp_path / "a.npz", **members)
    with pytest.raises(BrokenInputError, match=f"annotation 42 of image 7, but got .*{message}"):
        MapsFile(tmp_path / "a.npz").read(KEY)


def test_a_bomb_is_not_unpacked(tmp_path):
    """A member of 2 GiB of zeros behind a modest header: only what the header says is read."""
    import tracemalloc

    write(tmp_path / "a.npz", {KEY: some_maps()})
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        kept = {name: archive.read(name) for name in archive.namelist() if "maps" not in name}
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in kept.items():
            archive.writestr(name, data)
        with archive.open("7_42.maps.npy", "w", force_zip64=True) as file:
            file.write(header("(5, 9, 13)"))
            for _ in range(64):
                file.write(bytes(2**20))
    tracemalloc.start()
    MapsFile(tmp_path / "a.npz").read(KEY)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.parametrize("shape", ["(-1,)", "(-5, 4, 4)", "(5, -4, -4)", "(5, 10000, 10000)", f"(5, {2**70}, 0)"])
@pytest.mark.parametrize("name", ["maps", "foreground", "strip"])
def test_a_shape_that_no_array_has_is_refused_before_anything_is_unpacked(tmp_path, monkeypatch, name, shape):
    path = tmp_path / "a.npz"
    write(path, {KEY: some_maps()})
    rewrite(path, **{name: header(shape, "<f2" if name == "maps" else "|u1") + bytes(2**20)})
    asked = []
    read = zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda file, n=-1: asked.append(n) or read(file, n))
    with pytest.raises(BrokenInputError, match="annotation 42 of image 7"):
        MapsFile(path).read(KEY)
    assert all(0 <= n <= 8 * 2**20 for n in asked)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compression_of_which_no_part_is_read_alone_is_refused(tmp_path, method):
    """Python reads as many compressed bytes as it is asked for: 8 MiB of bzip2 may be 100 GiB."""
    path = tmp_path / "a.npz"
    write(path, {KEY: some_maps()})
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    with pytest.raises(BrokenInputError, match="stored or deflated, but got another compression"):
        MapsFile(path)


@pytest.mark.parametrize("name", ["../x.maps.npy", "7_42.code.npy", "7_42.maps.npy.exe", "7_.maps.npy"])
def test_a_strange_member_is_refused(tmp_path, name):
    write(tmp_path / "a.npz", {KEY: some_maps()})
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(BrokenInputError, match="to hold maps of objects, each once"):
        MapsFile(tmp_path / "a.npz")


def test_what_is_no_zip_file_is_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 no more")
    with pytest.raises(BrokenInputError, match="not a zip file"):
        MapsFile(tmp_path / "a.npz")


def entry(path) -> dict[str, str]:
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_maps_are_found_beside_their_record(tmp_path, monkeypatch):
    write(tmp_path / "a.npz", {KEY: some_maps()})
    assert maps_beside(tmp_path / "a.json", entry(tmp_path / "a.npz")).keys == {KEY}
    monkeypatch.chdir(tmp_path)
    assert maps_beside(type(tmp_path)("a.json"), entry(tmp_path / "a.npz")).keys == {KEY}


def test_maps_need_not_travel_with_their_record(tmp_path):
    assert maps_beside(tmp_path / "a.json", None) is None
    assert maps_beside(tmp_path / "a.json", {"file": "a.npz", "sha256": "0" * 64}) is None


def test_other_maps_are_refused(tmp_path):
    write(tmp_path / "a.npz", {KEY: some_maps()})
    want = entry(tmp_path / "a.npz")
    write(tmp_path / "a.npz", {KEY: some_maps(1)})
    with pytest.raises(BrokenInputError, match="its content is another"):
        maps_beside(tmp_path / "a.json", want)


def test_maps_elsewhere_are_refused(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    write(tmp_path / "secret.npz", {KEY: some_maps()})
    (inside / "a.npz").symlink_to(tmp_path / "secret.npz")
    with pytest.raises(BrokenInputError, match="leads to another folder"):
        maps_beside(inside / "a.json", entry(tmp_path / "secret.npz") | {"file": "a.npz"})
    (inside / "b.npz").symlink_to(inside / "c.npz")
    (inside / "c.npz").symlink_to(inside / "b.npz")
    with pytest.raises(BrokenInputError, match="but"):
        maps_beside(inside / "a.json", {"file": "b.npz", "sha256": "0" * 64})


def test_a_name_too_long_for_the_disk_is_that_of_no_file(tmp_path):
    assert maps_beside(tmp_path / "a.json", {"file": "ä" * 250 + ".npz", "sha256": "0" * 64}) is None
