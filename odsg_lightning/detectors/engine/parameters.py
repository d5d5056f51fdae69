"""A model's parameters and buffers while an engine uses them."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Let no parameter require a gradient inside: a graph then keeps what the input's gradient needs, and no more."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


class Snapshot:
    """Notices when a model's weights are no longer those of the forward pass.

    Autograd notices by itself, but only for the tensors it saved: an engine reads others, and reads them later.
    """

    def __init__(self, model: nn.Module) -> None:
        """Remember which tensors the model has, and their versions."""
        self._model = model
        self._tensors = _tensors(model)  # kept, so that no other tensor can take the place of one in memory
        self._versions = [_version(tensor) for tensor in self._tensors]

    def check(self) -> None:
        """Compare the model with what it was.

        Raises:
            RuntimeError: a parameter or a buffer was changed in place or replaced.
        """
        now = _tensors(self._model)
        same = len(now) == len(self._tensors) and all(a is b for a, b in zip(now, self._tensors, strict=True))
        if not same or [_version(tensor) for tensor in now] != self._versions:
            raise RuntimeError(
                "Expected the detector's weights to be those of linearize(), but they were changed since: take the "
                "gradients before the next training step, or call linearize() again."
            )


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _version(tensor: Tensor) -> tuple[int, int]:
    """Return what changes with an in-place operation, and with another storage (``parameter.data = ...``)."""
    return (-1 if tensor.is_inference() else tensor._version), tensor.data_ptr()
