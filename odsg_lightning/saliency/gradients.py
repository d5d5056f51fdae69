"""A detector at one image, and the gradients of its numbers with respect to the pixels."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from odsg_lightning.types import PARAMETERS, LocalGradient

if TYPE_CHECKING:  # the protocol belongs to the detectors; the mathematics only needs its shape
    from odsg_lightning.detectors.protocol import Detector, Linearization


def linearize(detector: "Detector", image: Tensor) -> "Linearization":
    """Run a detector on one image and keep what the gradients need.

    Uses the detector's own ``linearize`` where it has one, else one backward pass per output.

    Args:
        detector: see :class:`odsg_lightning.detectors.protocol.Detector`.
        image: ``[3, H, W]`` RGB, float, 0 to 255. It is copied, and works under ``no_grad`` and ``inference_mode``.
    """
    with torch.inference_mode(False), torch.enable_grad():
        own = getattr(detector, "linearize", None)
        if own is not None:
            result: Linearization = own(image.detach().clone())
            return result
        return AutogradLinearization(detector, image)


class AutogradLinearization:
    """The plain way: one ``torch.autograd.grad`` per output, exact for every detector.

    ``autograd.grad`` on the image alone leaves no ``.grad`` on any parameter.
    """

    def __init__(self, detector: "Detector", image: Tensor) -> None:
        """Run the detector; see :func:`linearize` for the arguments.

        Raises:
            ValueError: the detector returned objects whose numbers do not depend on the image.
        """
        self._image = image.detach().clone().requires_grad_()
        (detections,) = detector.detect([self._image])
        self._outputs = detections.parameters
        if len(detections) > 0 and not self._outputs.requires_grad:
            raise ValueError(
                "Expected detections that are differentiable with respect to the image, but the boxes and scores of "
                f"{type(detector).__name__}.detect() carry no graph. Remove no_grad / detach from its forward pass."
            )
        self.detections = detections.detach()

    def gradients(self, indices: Iterable[int]) -> Iterator[LocalGradient]:
        """Yield the gradients of each detection index, on the whole image."""
        for index in indices:
            yield LocalGradient(torch.stack([self._gradient(index, number) for number in range(len(PARAMETERS))]))

    def _gradient(self, index: int, parameter: int) -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():  # picking the output is part of the graph
            output = self._outputs[index, parameter]
        (gradient,) = torch.autograd.grad(output, self._image, retain_graph=True, materialize_grads=True)
        return gradient
