"""From the backbone's input, normalised and padded, to the pixels of the image."""

import torch
from torch import Tensor, nn

from odsg_lightning.detectors.engine.window import UnsupportedModelError, Window
from odsg_lightning.types import LocalGradient


class InputNormalization:
    """Detectron2's ``(pixels - pixel_mean) / pixel_std``, padded with zeros at the bottom and on the right.

    Args:
        model: with its ``pixel_mean`` and ``pixel_std``, each ``[3, 1, 1]`` in the model's own channel order.
        image: ``[3, H, W]`` RGB, 0 to 255.
        input_format: channel order of the model, ``"BGR"`` or ``"RGB"``.
    """

    def __init__(self, model: nn.Module, image: Tensor, input_format: str) -> None:
        """See the class for the arguments."""
        self._image = image
        self._flipped = input_format == "BGR"
        self._mean, self._std = model.get_buffer("pixel_mean"), model.get_buffer("pixel_std")

    @property
    def given(self) -> Tensor:
        """The image in the channel order of the model, as it is given to that."""
        return self._image.flip(0) if self._flipped else self._image

    def check(self, backbone_input: Tensor) -> None:
        """Refuse a model that prepares its input in another way.

        Raises:
            UnsupportedModelError: ``backbone_input`` is not what the class says.
        """
        height, width = self._image.shape[1:]
        expected = ((self.given.to(backbone_input.device) - self._mean) / self._std).to(backbone_input.dtype)
        same = (
            backbone_input.shape[:2] == (1, 3)
            and backbone_input.shape[2] >= height
            and backbone_input.shape[3] >= width
            and torch.allclose(backbone_input[0, :, :height, :width], expected, rtol=1e-5, atol=1e-5)
            and not backbone_input[:, :, height:].any()
            and not backbone_input[:, :, :, width:].any()
        )
        if not same:
            raise UnsupportedModelError(
                "the backbone's input is not (pixels - pixel_mean) / pixel_std, padded with zeros"
            )

    def to_image(self, window: Window, images: int) -> LocalGradient:
        """Return gradients of the backbone's input as those of the images, cropped, ``[n, 5, 3, h, w]``."""
        height, width = self._image.shape[1:]
        bottom, right = min(window.bottom, height), min(window.right, width)
        if bottom <= window.top or right <= window.left:  # in the padding alone
            return LocalGradient(self._image.new_zeros(images, len(window.values) // images, 3, 1, 1))
        values = window.values[:, :, : bottom - window.top, : right - window.left] / self._std
        values = values.flip(1) if self._flipped else values
        values = values.to(self._image).reshape(images, len(values) // images, *values.shape[1:])
        dropped = 0.0 if window.dropped is None else float(window.dropped.max())
        return LocalGradient(values, window.top, window.left, dropped)
