"""Whether a model is in the state in which it can be explained."""

import torch
from torch import nn

HALF = (torch.float16, torch.bfloat16)


def check_ready(model: nn.Module) -> None:
    """Refuse a model in training mode or of half precision.

    Raises:
        RuntimeError: says which, and what to do.

    Example:
        >>> check_ready(nn.Linear(1, 1).eval())
    """
    if model.training:
        raise RuntimeError("Expected the detector in eval mode, but it is in training mode: call .eval() first.")
    half = next((p.dtype for p in model.parameters() if p.dtype in HALF), None)
    if half is not None:
        raise RuntimeError(
            f"Expected parameters of single or double precision, but got {half}: gradients of single pixels vanish "
            "in half precision. Explain a copy of the model in float32 (ODSmoothGradCallback does so by itself)."
        )
