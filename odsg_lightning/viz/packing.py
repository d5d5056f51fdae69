"""Pictures as the bytes of a file."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def as_webp(picture: NDArray[np.uint8] | Image.Image) -> bytes:
    """Pack ``[H, W, 3]`` RGB for a record or a page, not exactly, in half of the time of Pillow's default method."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=80, method=2)
    return stream.getvalue()
