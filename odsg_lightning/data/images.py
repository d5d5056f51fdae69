"""Reading one image file as a person would see it: RGB, 8 bits, upright."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from odsg_lightning.errors import BrokenInputError, MissingFileError
from odsg_lightning.files import LFS_POINTER, is_lfs_pointer

_EXIF_ORIENTATION = 0x0112
# What undoes each EXIF orientation. ImageOps.exif_transpose also rewrites the EXIF block, which fails on odd tags.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {_UPRIGHT[orientation] for orientation in (5, 6, 7, 8)}


# No other: Pillow hands EPS to Ghostscript, which runs programs, and many decoders are hardly ever looked at.
_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000", "AVIF", "TGA")


def load_image(path: str | Path, expected_size: tuple[int, int] | None = None) -> Tensor:
    """Read an image file as RGB.

    Greyscale, palette and CMYK images are converted, transparency is composited over white, and 16-bit greyscale is
    scaled from 0-65535 to 0-255. The EXIF rotation is applied.

    Args:
        path: an image file: JPEG, PNG, TIFF, WebP, BMP, GIF, PPM, JPEG 2000, AVIF or TGA.
        expected_size: ``(height, width)`` that the annotation file states; None accepts any.

    Returns:
        ``[3, H, W]`` uint8 RGB, 0 to 255.

    Raises:
        MissingFileError: there is no such file.
        BrokenInputError: the file is not an image, is truncated, is too large for Pillow's decompression limit, has
            pixels without a known range, is a Git LFS pointer, or has a size other than ``expected_size``, if only by
            its EXIF rotation. The message names the file.
    """
    path = Path(path)
    with _opened(path) as image:
        image.load()
        upright = _turn(image)
        rgb = _to_rgb(image)
    pixels = torch.from_numpy(np.array(_oriented(rgb, upright, expected_size, path)))
    return pixels.permute(2, 0, 1).contiguous()


def upright_size(path: Path) -> tuple[int, int]:
    """Return the height and width of an image as :func:`load_image` reads it, mostly without decoding it.

    Raises:
        BrokenInputError: see there.
    """
    with _opened(path) as image:
        return (image.width, image.height) if _turn(image) in _SIDEWAYS else (image.height, image.width)


def refuse_bombs(width: int, height: int) -> None:
    """Refuse an image of more pixels than Pillow's limit, which raises it for trusted images.

    Raises:
        ValueError: says both numbers.
    """
    # Pillow only warns up to twice its limit. Turning warnings into errors is not safe in threads; comparing is.
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise ValueError(
            f"{width}x{height} pixels exceed Pillow's limit of {limit} (decompression bomb); raise "
            "PIL.Image.MAX_IMAGE_PIXELS if the image is trusted"
        )


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image, and say of whatever its decoder raises which file it is."""
    try:
        with Image.open(path, formats=_known_formats()) as image:
            refuse_bombs(image.width, image.height)
            yield image
    except FileNotFoundError:
        raise MissingFileError(f"Expected an image file at {path}, but there is none.") from None
    except Exception as error:  # decoders of broken files raise nearly everything: OSError, SyntaxError, struct.error
        pointer = is_lfs_pointer(path)
        cause = LFS_POINTER if pointer else f"reading it failed: {error}"
        cure = "" if pointer else " Replace the file, or remove its record from the annotations."
        raise BrokenInputError(f"Expected {path} to be a complete image file, but {cause}.{cure}") from error


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return what turns an image as its EXIF orientation says."""
    return _UPRIGHT.get(image.getexif().get(_EXIF_ORIENTATION, 1))


def _known_formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]  # AVIF is not in every build


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_16_bit(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range; convert it to 8 or 16 bits")
    if image.has_transparency_data:
        # Pillow converts La (premultiplied) to LA only.
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    # Image.convert clips at 255 here and would turn nearly every 16-bit image white.
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"expected 16-bit pixels (0 to 65535), but they range from {values.min()} to {values.max()}")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def _oriented(
    image: Image.Image, upright: Image.Transpose | None, expected_size: tuple[int, int] | None, path: Path
) -> Image.Image:
    stored = (image.height, image.width)
    rotated = image if upright is None else image.transpose(upright)
    if expected_size is None or (rotated.height, rotated.width) == tuple(expected_size):
        return rotated
    cure = "Correct the record, or use the image that was annotated."
    if stored == tuple(expected_size):
        # Which of the two pictures the boxes were drawn on is not to be known, and on the other they lie beside the
        # objects.
        cure = (
            "These are its stored pixels, which its EXIF orientation rotates. Were the boxes drawn on the upright "
            "picture, as viewers show it, write its height and width into the record; were they drawn on the stored "
            "pixels, remove the orientation from the file: exiftool -Orientation= FILE"
        )
    raise BrokenInputError(
        f"Expected {path} to have height {expected_size[0]} and width {expected_size[1]}, as its record in the "
        f"annotations says, but got height {rotated.height} and width {rotated.width}. {cure}"
    )
