"""Vector-Jacobian products through a backbone."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from odsg_lightning.detectors.engine.window import Window


class BackboneEngine(Protocol):
    """One run of a backbone on one image, and the vector-Jacobian products (VJPs) through it."""

    def recording(self) -> AbstractContextManager[None]:
        """Record the backbone's next forward pass.

        The features it returns inside are detached. Nothing stays on the backbone afterwards.
        """
        ...

    def vjp(self, cotangents: Mapping[str, Window]) -> Window:
        """Carry cotangents of the features back to the backbone's input.

        Args:
            cotangents: by the name of the feature (``"p4"``); all with the same number N of cotangents.

        Returns:
            ``[N, 3, h, w]`` on a window of the backbone's input (normalised and padded as the detector does it).
        """
        ...
