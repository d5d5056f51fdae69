"""Files of a pull request that try to run, to write, to read elsewhere or to fill the memory: none gets through.

Each goes through ``odsg audit`` and must end with exit code 3, in seconds, and with nothing written.
"""

import json
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import save_lightning, save_zoo_pickle, tiny_module
from helpers.coco_files import CocoFiles
from PIL import Image

from odsg_lightning.cli import main
from odsg_lightning.data import images as images_module
from odsg_lightning.data.audit_set_choice import choose_audit_set
from odsg_lightning.files import sha256_of
from odsg_lightning.records.audit_set import read_audit_set, write_audit_set


class Attack:
    """Runs a command when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a harmless checkpoint, audit set and images; what an audit writes would be in out/."""
    monkeypatch.chdir(tmp_path)
    files = CocoFiles(tmp_path / "data").write()
    with pytest.warns(UserWarning, match="recommended"):
        chosen, _ = choose_audit_set(files.json, files.images_dir, count=2, min_size=60)
    write_audit_set(chosen, tmp_path / "set.json")
    save_lightning(tiny_module(num_classes=2), tmp_path / "good.ckpt")
    save_zoo_pickle(tiny_module(num_classes=2), tmp_path / "good.pkl")
    return tmp_path


def audit(*arguments):
    return main(["audit", *map(str, arguments), "--audit-set", "set.json", "-o", "out/r.json", "--n-samples", "1"])


def refused(place, capsys, message, *arguments):
    before = {path for path in place.rglob("*") if path.is_file()}
    started = time.perf_counter()
    code = audit(*arguments)
    text = capsys.readouterr().err
    assert code == 3, text
    assert message in text
    assert not (place / "made").exists()
    assert not (place / "out").exists()
    assert {path for path in place.rglob("*") if path.is_file()} == before
    assert time.perf_counter() - started < 20


def test_the_harmless_files_are_audited(place):
    assert audit("good.ckpt") == 0
    assert audit("good.pkl", "--config", "retinanet_tiny") == 0
    assert sorted(path.name for path in (place / "out").iterdir()) == ["r.json", "r.maps.npz"]


# Checkpoints ----------------------------------------------------------------------------------------------------------


def malicious_ckpt(path, victim):
    content = torch.load("good.ckpt", weights_only=True)
    torch.save(content | {"callbacks": {"innocent": Attack(victim)}}, path)


def malicious_pth(path, victim):
    torch.save({"model": {"weight": torch.zeros(1)}, "optimizer": Attack(victim)}, path)


def malicious_old_pth(path, victim):
    content = {"model": {"weight": torch.zeros(1)}, "optimizer": Attack(victim)}
    torch.save(content, path, _use_new_zipfile_serialization=False)


def malicious_pkl(path, victim):
    path.write_bytes(pickle.dumps({"model": {"weight": Attack(victim)}, "__author__": "zoo"}, protocol=2))


SPECIMENS = [
    ("bad.ckpt", malicious_ckpt, []),
    ("bad.pth", malicious_pth, ["--config", "retinanet_tiny"]),
    ("old.pth", malicious_old_pth, ["--config", "retinanet_tiny"]),
    ("bad.pyth", malicious_pth, ["--config", "retinanet_tiny"]),
    ("bad.pkl", malicious_pkl, ["--config", "retinanet_tiny"]),
]


@pytest.mark.parametrize(("name", "make", "options"), SPECIMENS)
def test_a_checkpoint_that_would_run_code(place, capsys, name, make, options):
    make(place / name, place / "made")
    refused(place, capsys, "mkdir, which is refused", name, *options)


@pytest.mark.parametrize(("name", "make", "options"), SPECIMENS)
def test_trust_says_what_it_lifts_and_lifts_it(place, capsys, name, make, options):
    make(place / name, place / "made")
    audit(name, *options, "--trust")
    assert (place / "made").is_dir()  # the specimens above would have worked
    assert f"--trust: {name} is read with Python's own pickle, which runs whatever code" in capsys.readouterr().err


def test_a_checkpoint_that_grows(place, capsys):
    torch.save({"model": {"weight": torch.zeros(50_000_000)}}, "bomb.pth")  # 200 MB of zeros
    with zipfile.ZipFile("bomb.pth") as archive, zipfile.ZipFile("small.pth", "w", zipfile.ZIP_DEFLATED) as small:
        for member in archive.infolist():
            small.writestr(member.filename, archive.read(member))
    Path("bomb.pth").unlink()
    assert Path("small.pth").stat().st_size < 2**20
    refused(place, capsys, "a compressed archive", "small.pth", "--config", "retinanet_tiny")


@pytest.mark.parametrize("name", ["bomb.ckpt", "bomb.pkl"])
def test_a_checkpoint_that_never_loads(place, capsys, name):
    """A key of nested tuples, whose hash takes 2^45 steps: see test_torch_pickle.py for its kin."""
    content = b"\x80\x02}K\x01\x85q\x010" + b"h\x01h\x01\x86q\x010" * 45 + b"h\x01K\x01s."
    if name == "bomb.pkl":
        Path(name).write_bytes(content)
    else:
        with zipfile.ZipFile(name, "w") as archive:
            archive.writestr("a/data.pkl", content)
            archive.writestr("a/version", "3\n")
    options = ["--config", "retinanet_tiny"] if name == "bomb.pkl" else []
    refused(place, capsys, "a key of more than 64 parts", name, *options)


@pytest.mark.parametrize(
    ("key", "value"), [("PIXEL_STD", [1.0] * 5), ("ANCHOR_GENERATOR.OFFSET", 7.0), ("RETINANET.IN_FEATURES", ["p9"])]
)
def test_a_configuration_in_a_checkpoint_that_does_not_run(place, capsys, key, value):
    """The first builds and breaks in its forward pass, the others are not even built."""
    content = torch.load("good.ckpt", weights_only=True)
    content["hyper_parameters"]["config"][f"MODEL.{key}"] = value
    torch.save(content, "bad.ckpt")
    assert audit("bad.ckpt") == 3
    error = capsys.readouterr().err
    forward = "Expected the detector of bad.ckpt to run, but its forward pass of image id 1 raised RuntimeError"
    assert (forward if key == "PIXEL_STD" else "Expected bad.ckpt to describe a detector") in error
    assert "Traceback" not in error
    assert not list(place.rglob("*.partial"))


def test_a_fault_in_the_audit_of_a_detector_that_runs_is_none_of_the_file(place, capsys, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("odsg_lightning.audit.loop.pairing_counts", broken)
    assert audit("good.ckpt") == 70
    assert "RuntimeError: a fault of ours" in capsys.readouterr().err


# Configurations -------------------------------------------------------------------------------------------------------

LAUGHS = "\n".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9 if i else ['1'] * 9)}]" for i in range(12))
MAPPINGS = "\n".join(
    f"l{i}: &l{i} {{{', '.join(f'k{k}: *l{i - 1}' if i else f'k{k}: 1' for k in range(9))}}}" for i in range(12)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SEED: !!python/object/apply:os.mkdir ['made']", "a YAML tag that would run code"),
        ("MODEL: !!python/object/new:os.mkdir ['made']", "a YAML tag that would run code"),
        ("SEED: !!python/name:os.mkdir", "a YAML tag that would run code"),
        ("_BASE_: middle.yaml", "a YAML tag that would run code"),
        ("_BASE_: many.yaml", "at most 32 files"),
        ("_BASE_: bad.yaml", "got a circle"),
        ("_BASE_: 5", "a file name or a list of them"),
        ("_BASE_: /dev/zero", "Expected a YAML file"),
        (LAUGHS, "its aliases stand for more than 20000 values"),
        (MAPPINGS, "its aliases stand for more than 20000 values"),
        (f"{LAUGHS}\nMODEL: {{<<: *l11}}", "its aliases stand for more"),
        ("SEED: &a [*a]", "its aliases stand for more"),
        ("SEED: " + "[" * 5000, "recursion"),
        ("SEED: " + "1" * 2**20, "of at most 0.125 MiB"),
        ("MODEL: {FPN: {OUT_CHANNELS: 100000000}}\n_BASE_: good.yaml", "at most 2147483648 parameters"),
    ],
)
def test_a_configuration(place, capsys, text, message):
    Path("bad.yaml").write_text(text)
    Path("middle.yaml").write_text("_BASE_: [evil.yaml]\nSEED: 1")
    Path("evil.yaml").write_text("SEED: !!python/object/apply:os.mkdir ['made']")
    Path("many.yaml").write_text("_BASE_: [" + "m0.yaml, " * 9 + "]")
    for level in range(9):
        Path(f"m{level}.yaml").write_text("_BASE_: [" + f"m{level + 1}.yaml, " * 9 + "]")
    Path("m9.yaml").write_text("SEED: 1")
    configs = Path(__file__).parents[2] / "configs" / "detectors"
    Path("good.yaml").write_text((configs / "retinanet_tiny.yaml").read_text())
    refused(place, capsys, message, "good.pkl", "--config", "bad.yaml")


# Annotations, images and audit sets -----------------------------------------------------------------------------------


def change_coco(place, change):
    path = place / "data" / "instances.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "name", ["../../secret.png", "/etc/passwd", "..\\secret.png", "C:\\secret.png", "a/../../b.png"]
)
def test_a_file_name_that_leaves_its_folder(place, capsys, name):
    change_coco(place, lambda c: c["images"][0].update(file_name=name))
    refused(place, capsys, "to stay inside the image folder", "good.ckpt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"][0].update(height=10**9, width=10**9), "exceed Pillow's limit"),
        (lambda c: c["images"][0].update(height=10**400), "within 2**53"),
        (lambda c: c["annotations"][0].update(bbox=[0, 0, float("nan"), 5]), "4 finite numbers"),
        (lambda c: c["annotations"][0].update(bbox=[0, 0, float("inf"), 5]), "4 finite numbers"),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [30, 40], "counts": [0, 10**18]}),
            "image id 1 ('1.png'): its annotations",  # the mask cannot be used: no longer the audit set's object
        ),
        (lambda c: c["annotations"][0].update(segmentation=[[0, 0, 1e12, 0, 1e12, 1e12]]), "its annotations"),
    ],
)
def test_giants_in_the_annotations(place, capsys, change, message):
    change_coco(place, change)
    refused(place, capsys, message, "good.ckpt")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": ' + "9" * 100_000 + "}"])
def test_annotations_that_are_hard_to_parse(place, capsys, text):
    (place / "data" / "instances.json").write_text(text)
    refused(place, capsys, "Expected a COCO JSON file at", "good.ckpt")


def test_a_giant_file_of_annotations(place, capsys):
    os.truncate(place / "data" / "instances.json", 3 * 2**30)  # takes no room on the disk
    refused(place, capsys, "at most 2048 MiB, but it has 3072 MiB", "good.ckpt")


def test_a_pipe_instead_of_annotations(place, capsys):
    (place / "data" / "instances.json").unlink()
    os.mkfifo(place / "data" / "instances.json")
    refused(place, capsys, "no regular file", "good.ckpt")


def png_bomb(width, height):
    """A black greyscale PNG of one bit a pixel; its zeros compress a thousandfold."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    deflate = zlib.compressobj(9)
    row = b"\0" * (1 + (width + 7) // 8)
    pixels = b"".join(deflate.compress(row) for _ in range(height)) + deflate.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def bmp_header(width, height):
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


def tiff(width, height):
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 1}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + b"\0" * 8


def webp(width, height):
    extended = b"VP8X" + struct.pack("<I", 10) + b"\0" * 4 + struct.pack("<I", width - 1)[:3]
    extended += struct.pack("<I", height - 1)[:3]
    stream = (
        b"VP8L" + struct.pack("<I", 18) + b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14) + b"\0" * 13
    )
    body = b"WEBP" + extended + stream
    return b"RIFF" + struct.pack("<I", len(body)) + body


BOMBS = {
    "png": lambda: png_bomb(50_000, 50_000),
    "bmp": lambda: bmp_header(50_000, 50_000),
    "tiff": lambda: tiff(50_000, 50_000),
    "gif": lambda: (
        b"GIF89a"
        + struct.pack("<HH", *[50_000] * 2)
        + b"\0\0\0,"
        + struct.pack("<HHHH", 0, 0, *[50_000] * 2)
        + b"\0\2\0;"
    ),
    "ppm": lambda: b"P6 50000 50000 255\n",
    "webp": lambda: webp(16_383, 16_383),
}


@pytest.mark.parametrize("kind", sorted(BOMBS))
def test_an_image_bomb(place, capsys, kind):
    """The set was made for the bomb itself: its hash fits, and only its size can tell."""
    content = BOMBS[kind]()
    assert len(content) < 1_000_000
    bomb = place / "data" / "images" / "1.png"
    bomb.write_bytes(content)
    chosen = read_audit_set("set.json")
    first, second = chosen.images
    write_audit_set(replace(chosen, images=(replace(first, sha256=sha256_of(bomb)), second)), place / "set.json")
    refused(place, capsys, "1.png to be a complete image file", "good.ckpt")


MEASURE = """
import resource, sys
from pathlib import Path
from odsg_lightning.data.images import load_image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        load_image(path)
    except ValueError as error:
        print(path.name, "was refused")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_no_bomb_is_decoded(tmp_path):
    """In a process of its own, because the peak of this one may be high already. Decoded, each takes gigabytes."""
    for kind, make in BOMBS.items():
        (tmp_path / f"1.{kind}").write_bytes(make())
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    *lines, grown = done.stdout.splitlines()
    assert lines == [f"1.{kind} was refused" for kind in sorted(BOMBS)]
    assert int(grown) < 100  # MiB


def test_the_png_is_a_real_one(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png_bomb(2000, 1000))
    assert images_module.load_image(tmp_path / "a.png").shape == (3, 1000, 2000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_999_999)
    with pytest.raises(ValueError, match="exceed Pillow's limit"):
        images_module.load_image(tmp_path / "a.png")


def test_a_picture_that_is_a_program(place, capsys):
    """Pillow would hand PostScript to Ghostscript."""
    (place / "data" / "images" / "1.png").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n(made) (w) file closefile\nshowpage\n%%EOF\n"
    )
    chosen = read_audit_set("set.json")
    first, second = chosen.images
    digest = sha256_of(place / "data" / "images" / "1.png")
    write_audit_set(replace(chosen, images=(replace(first, sha256=digest), second)), place / "set.json")
    refused(place, capsys, "cannot identify image file", "good.ckpt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(min_size=10**7), "min_size"),
        (lambda c: c.update(annotations="../" * 50 + "dev/zero"), "no regular file"),
        (lambda c: c["images"][0].update(sha256="0" * 64), "its image file"),
        (lambda c: c["images"][0].update(file_name="<script>"), ""),
        (lambda c: c.update(extra=Ellipsis), "extra"),
    ],
)
def test_an_audit_set(place, capsys, change, message):
    content = json.loads(Path("set.json").read_text())
    change(content)
    Path("set.json").write_text(json.dumps(content, default=str))
    if message:
        refused(place, capsys, message, "good.ckpt")
    else:  # a name for people: the file is the one that the annotations name
        assert audit("good.ckpt") == 0
