"""Names of tensors, whatever the model was wrapped in when it was saved."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

_WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}

Value = TypeVar("Value")


def unwrapped(name: str) -> str:
    """Return a tensor's name without what ``torch.compile``, DDP, FSDP and activation checkpoints add to it.

    Example:
        >>> unwrapped("module._orig_mod.backbone._orig_mod.stem.weight")
        'backbone.stem.weight'
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def named_as(own: Iterable[str], state: Mapping[str, Value]) -> dict[str, Value]:
    """Return the tensors of a file under the names that a model has for them, however either is wrapped.

    A name that the model does not have loses its wrappers. Nothing is renamed where two tensors would get one name.

    Args:
        own: names of the model's tensors.
        state: the file's tensors by name.

    Example:
        >>> named_as(["head.weight"], {"module.head.weight": 1, "_orig_mod.other": 2})
        {'head.weight': 1, 'other': 2}
    """
    own = set(own)
    known = {unwrapped(name): name for name in sorted(own)}
    targets = {name: name if name in own else known.get(unwrapped(name), unwrapped(name)) for name in state}
    times = Counter(targets.values())
    return {targets[name] if times[targets[name]] == 1 else name: value for name, value in state.items()}
