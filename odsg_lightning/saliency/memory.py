"""How much memory there is, and whether an error says that it did not suffice."""

import torch
from torch import Tensor


def free_memory(device: torch.device) -> int:
    """Return the bytes of a CUDA device that nobody uses, those that PyTorch keeps for itself included."""
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + cached


def allocated(tensor: Tensor) -> int:
    """Return the bytes that all tensors of a CUDA tensor's device take; 0 on a CPU, which does not count them."""
    return torch.cuda.memory_allocated(tensor.device) if tensor.is_cuda else 0


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory does not suffice, on CUDA or on a CPU."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or "can't allocate memory" in str(error)
