"""What the engines need of a detector's head."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor

from odsg_lightning.detectors.engine.jacobian import Jacobian
from odsg_lightning.detectors.engine.window import Window


class HeadRecord(Protocol):
    """One forward pass of a head."""

    features: list[Tensor]
    """What it was given."""
    leaves: list[Tensor]
    """Its outputs, at which autograd started again."""


class Head(Protocol):
    """A detector's head, recorded in a forward pass for each image of a batch."""

    @property
    def records(self) -> Sequence[HeadRecord]:
        """Of each forward pass so far."""
        ...

    @property
    def is_local(self) -> bool:
        """Whether several images may go through it at once, because it does the same at each."""
        ...

    def recording(self) -> AbstractContextManager[None]:
        """Record the head's next forward pass; grad mode is on behind it."""
        ...

    def cotangents(self, jacobians: Mapping[int, Jacobian]) -> list[Window | None]:
        """Carry an object's derivatives by the leaves back to the features, for each of them; None where they are zero.

        Args:
            jacobians: of the object in each image in which it was found, by the number of the image's record.
        """
        ...
