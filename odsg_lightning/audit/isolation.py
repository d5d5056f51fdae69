"""The promise that an audit leaves no trace on what is being trained."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states
from torch import nn

from odsg_lightning.detectors.ready import HALF


@contextmanager
def isolated(module: nn.Module) -> Iterator[None]:
    """Put a module into the state for an audit, and give back the very state it had, also after an error.

    Inside: eval mode, no parameter requires a gradient, inference mode is off, what was compiled runs uncompiled, and
    weights of half precision are single: gradients of single pixels vanish in half precision.
    Restored on leaving: the mode of each submodule, ``requires_grad`` and ``.grad`` of each parameter, which hooks,
    submodules, parameters and buffers there are, the values of buffers, and the random states of Python, NumPy and
    torch on every device.

    Args:
        module: the module that is trained; everything the audit runs must be inside it.
    """
    modes = [(child, child.training) for child in module.modules()]
    flags = [(parameter, parameter.requires_grad, parameter.grad) for parameter in module.parameters()]
    tables = [(table, dict(table)) for child in module.modules() for table in _tables(child)]
    random_states = _collect_rng_states()  # Lightning's own isolate_rng does not restore them after an error
    with torch.inference_mode(False), _uncompiled():
        buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
        halves = [(t, t.data) for t in chain(module.parameters(), module.buffers()) if t.dtype in HALF]
        try:
            module.eval()
            for parameter, _, _ in flags:
                parameter.requires_grad_(False)
                parameter.grad = None  # a stray backward() would add to it in place
            for tensor, half in halves:
                tensor.data = half.float()
            yield
        finally:
            _set_rng_states(random_states)
            for tensor, half in halves:
                tensor.data = half
            for table, before in tables:
                if list(map(id, table.values())) != list(map(id, before.values())):
                    table.clear()
                    table.update(before)
            for child, mode in modes:
                child.training = mode
            for parameter, flag, gradient in flags:
                parameter.requires_grad_(flag)
                parameter.grad = gradient
            with torch.no_grad():
                for buffer, before_audit in buffers:
                    if not torch.equal(buffer, before_audit):
                        buffer.copy_(before_audit)


def _tables(module: nn.Module) -> list[dict[Any, Any]]:
    """Return the tables in which a module keeps its hooks and its parts."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [getattr(module, name) for name in (*hooks, "_modules", "_parameters", "_buffers")]


def _uncompiled() -> AbstractContextManager[None]:
    """Keep the audit from compiling anything.

    Its modes and image sizes would be compiled beside those of the training: that costs minutes, counts towards the
    limit at which torch.compile gives up, and makes it compile the training's own sizes again as dynamic ones.
    """
    set_stance = getattr(torch.compiler, "set_stance", None)  # since torch 2.6
    context: AbstractContextManager[None] = nullcontext() if set_stance is None else set_stance("force_eager")
    return context
