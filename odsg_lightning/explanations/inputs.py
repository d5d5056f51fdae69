"""What a person gives to be explained: a picture, a point in it, classes by name."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from odsg_lightning.errors import UserInputError


class ClassNames:
    """Classes by index and by name.

    Args:
        names: of each class, in the order of the indices; None if they are not known.
    """

    def __init__(self, names: Sequence[str] | None) -> None:
        """See the class for the arguments."""
        self._names = None if names is None else list(names)

    def index(self, asked: str | int) -> int:
        """Return the index of a class.

        Raises:
            UserInputError: it is not known; the message lists those that are.
        """
        if isinstance(asked, int) and not isinstance(asked, bool):
            if asked < 0 or (self._names is not None and asked >= len(self._names)):
                raise UserInputError(f"Expected a class index from 0 on{self._known()}, but got {asked}.")
            return asked
        if self._names is None or asked not in self._names:
            raise UserInputError(f"Expected the name of a class{self._known()}, but got {asked!r}.")
        return self._names.index(asked)

    def name(self, index: int) -> str:
        """Return the name of a class, or what stands for it."""
        known = self._names is not None and index < len(self._names)
        return self._names[index] if known and self._names is not None else f"class {index}"

    def _known(self) -> str:
        if self._names is None:
            return " (the detector knows no names: pass `category_names`, or give an index)"
        return f", one of {', '.join(self._names[:100])}"


def as_pixels(image: Any) -> Tensor:
    """Return a picture as ``[3, H, W]`` float, 0 to 255.

    Args:
        image: a tensor ``[3, H, W]``, an array ``[H, W, 3]``, or a Pillow image.

    Raises:
        UserInputError: it is none of these, or has other values.
    """
    if isinstance(image, Tensor):
        tensor = image.detach().clone()
    else:
        array = np.array(image.convert("RGB") if hasattr(image, "convert") else image)
        numbers = array.ndim == 3 and array.dtype.kind in "uif"
        tensor = torch.from_numpy(array).permute(2, 0, 1) if numbers else torch.zeros(0)
    if tensor.ndim != 3 or tensor.shape[0] != 3 or tensor.numel() == 0:
        shape = f" of shape {tuple(image.shape)}" if hasattr(image, "shape") else ""
        raise UserInputError(
            "Expected a picture: a tensor [3, H, W], an array [H, W, 3], or a Pillow image, but got "
            f"{type(image).__name__}{shape}."
        )
    pixels = tensor if tensor.is_floating_point() else tensor.float()
    least, most = float(pixels.amin()), float(pixels.amax())
    if not (least >= 0 and (1 < most <= 255 or most == 0)):  # NaN is neither
        raise UserInputError(f"Expected pixels from 0 to 255, but they range from {least:.6g} to {most:.6g}.")
    return pixels.contiguous()


def check_point(point: tuple[float, float] | None, pixels: Tensor) -> None:
    """Refuse a point ``(x, y)`` outside a picture ``[3, H, W]``.

    Raises:
        UserInputError: says its size.
    """
    height, width = pixels.shape[1:]
    if point is not None and not (0 <= point[0] < width and 0 <= point[1] < height):
        raise UserInputError(f"Expected a point inside the picture of {width}x{height} pixels, but got {point}.")
