"""The promise that an audit leaves no trace on what is being trained."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states
from torch import nn


@contextmanager
def isolated(module: nn.Module) -> Iterator[None]:
    """Put a module into the state for an audit, and give back the very state it had, also after an error.

    Inside: eval mode, no parameter requires a gradient, inference mode is off. Restored on leaving: the mode of each
    submodule, ``requires_grad`` and ``.grad`` of each parameter, hooks, the values of buffers, and the random states of
    Python, NumPy and torch on every device.

    Args:
        module: the module that is trained; everything the audit runs must be inside it.
    """
    modes = [(child, child.training) for child in module.modules()]
    flags = [(parameter, parameter.requires_grad, parameter.grad) for parameter in module.parameters()]
    hooks = [(table, dict(table)) for child in module.modules() for table in _hook_tables(child)]
    random_states = _collect_rng_states()  # Lightning's own isolate_rng does not restore them after an error
    with torch.inference_mode(False):
        buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
        try:
            module.eval()
            for parameter, _, _ in flags:
                parameter.requires_grad_(False)
                parameter.grad = None  # a stray backward() would add to it in place
            yield
        finally:
            _set_rng_states(random_states)
            for child, mode in modes:
                child.training = mode
            for parameter, flag, gradient in flags:
                parameter.requires_grad_(flag)
                parameter.grad = gradient
            for table, before in hooks:
                for handle in table.keys() - before.keys():
                    del table[handle]
            with torch.no_grad():
                for buffer, before_audit in buffers:
                    if not torch.equal(buffer, before_audit):
                        buffer.copy_(before_audit)


def _hook_tables(module: nn.Module) -> list[dict[int, object]]:
    """Return the tables in which a module keeps its forward and backward hooks."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [getattr(module, name) for name in names]
