import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.coco_files import gradient_image
from PIL import Image

from odsg_lightning.data.images import load_image, upright_size
from odsg_lightning.errors import BrokenInputError, MissingFileError

ROTATED_90 = 6  # EXIF: turn by 90 degrees clockwise to see it upright


def _save(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def _pixel(path: Path, row: int = 0, column: int = 0) -> list[int]:
    return load_image(path)[:, row, column].tolist()


def test_rgb_is_returned_as_stored(tmp_path):
    path = _save(tmp_path / "a.png", gradient_image(5, 4))

    image = load_image(path, (4, 5))

    assert image.dtype == torch.uint8
    assert image.shape == (3, 4, 5)
    assert image.is_contiguous()
    assert image[:, 3, 2].tolist() == [2, 3, 128]


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, [255, 255, 255]),
        ("L", 77, [77, 77, 77]),
        ("LA", (0, 0), [255, 255, 255]),
        ("LA", (0, 255), [0, 0, 0]),
        ("RGBA", (10, 20, 30, 255), [10, 20, 30]),
        ("RGBA", (255, 0, 0, 0), [255, 255, 255]),
        ("RGBA", (0, 0, 0, 51), [204, 204, 204]),  # a fifth of black over white
        ("I;16", 65535, [255, 255, 255]),
        ("I;16", 32896, [128, 128, 128]),  # 128 * 257
        ("I;16", 1000, [4, 4, 4]),
    ],
)
def test_png_modes(tmp_path, mode, colour, expected):
    path = _save(tmp_path / "a.png", Image.new(mode, (3, 2), colour))

    assert _pixel(path, 1, 2) == expected


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (257, 1), (65535, 255)])
@pytest.mark.parametrize("mode", ["I", "I;16", "I;16B"])
def test_16_bit_tiff_is_scaled_over_the_full_range(tmp_path, mode, value, expected):
    path = _save(tmp_path / "a.tif", Image.new(mode, (3, 2), value))

    assert _pixel(path) == [expected] * 3


def test_palette(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])

    opaque = _save(tmp_path / "a.png", image)
    transparent = _save(tmp_path / "b.png", image, transparency=0)

    assert (_pixel(opaque), _pixel(opaque, 0, 1)) == ([10, 20, 30], [200, 100, 50])
    assert (_pixel(transparent), _pixel(transparent, 0, 1)) == ([255, 255, 255], [200, 100, 50])


def test_transparent_colour_of_an_rgb_png(tmp_path):
    path = _save(tmp_path / "a.png", Image.new("RGB", (2, 2), (1, 2, 3)), transparency=(1, 2, 3))

    assert _pixel(path) == [255, 255, 255]


def test_cmyk_jpeg(tmp_path):
    path = _save(tmp_path / "a.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0)))

    red, green, blue = _pixel(path, 8, 8)
    assert red > 240
    assert max(green, blue) < 15


def _rotated(tmp_path: Path, orientation: int = ROTATED_90) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _save(tmp_path / "a.png", gradient_image(6, 4), exif=exif)


def test_exif_rotation_is_applied(tmp_path):
    path = _rotated(tmp_path)

    image = load_image(path)

    assert image.shape == (3, 6, 4)
    assert image[:, 0, 3].tolist() == [0, 0, 128]  # the stored top left corner is now the top right one
    assert torch.equal(image, load_image(path, (6, 4)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_agrees_with_pillow(tmp_path, orientation):
    from PIL import ImageOps

    path = _rotated(tmp_path, orientation)

    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(load_image(path).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("orientation", range(5, 9))
def test_a_record_of_the_stored_size_is_refused_where_exif_turns_the_picture(tmp_path, orientation):
    with pytest.raises(BrokenInputError, match=r"a\.png to have height 4 and width 6.*EXIF orientation rotates"):
        load_image(_rotated(tmp_path, orientation), (4, 6))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_without_decoding_is_that_of_the_picture(tmp_path, orientation):
    path = _rotated(tmp_path, orientation)
    assert upright_size(path) == tuple(load_image(path).shape[1:])


def test_a_git_lfs_pointer(tmp_path):
    (tmp_path / "a.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12345\n")
    for read in (load_image, upright_size):
        with pytest.raises(BrokenInputError, match=r"a\.jpg to be a complete image file, but .*: git lfs pull\.$"):
            read(tmp_path / "a.jpg")


def test_size_that_fits_neither_way(tmp_path):
    path = _rotated(tmp_path)

    with pytest.raises(BrokenInputError, match=r"a\.png to have height 5 and width 6, .* but got height 6 and width 4"):
        load_image(path, (5, 6))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_file(tmp_path, suffix):
    rng = np.random.default_rng(0)
    path = _save(tmp_path / f"a.{suffix}", Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)))
    path.write_bytes(path.read_bytes()[:-2000])

    with pytest.raises(
        BrokenInputError, match=rf"Expected .*a\.{suffix} to be a complete image file, but reading it failed"
    ):
        load_image(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_not_an_image(tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)

    with pytest.raises(BrokenInputError, match=r"a\.jpg to be a complete image file"):
        load_image(path)


def test_folder_and_missing_file(tmp_path):
    with pytest.raises(BrokenInputError, match="to be a complete image file"):
        load_image(tmp_path)
    with pytest.raises(MissingFileError, match=r"Expected an image file at .*none\.jpg"):
        load_image(tmp_path / "none.jpg")


@pytest.mark.parametrize(
    ("mode", "colour", "message"),
    [("F", 0.5, "unknown range"), ("I", 70000, "range from 70000 to 70000"), ("I", -1, "expected 16-bit pixels")],
)
def test_pixels_without_a_known_range(tmp_path, mode, colour, message):
    path = _save(tmp_path / "a.tif", Image.new(mode, (2, 2), colour))

    with pytest.raises(BrokenInputError, match=message):
        load_image(path)


@pytest.mark.parametrize("pixels", [13, 6])  # Pillow warns above its limit and raises above twice its limit
@pytest.mark.parametrize("filter_", ["ignore", "error"])
def test_decompression_bomb(tmp_path, monkeypatch, pixels, filter_):
    path = _save(tmp_path / "a.png", Image.new("L", (4, 4)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)

    with warnings.catch_warnings():
        warnings.simplefilter(filter_)
        with pytest.raises(BrokenInputError, match=r"(?s)a\.png.*exceed"):
            load_image(path)
