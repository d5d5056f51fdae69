"""How many images go through a detector at once, by their size and by how much memory there is."""

import torch
from torch import Tensor

_FLOATS_PER_PIXEL = 180
"""Of one image's pass through a ResNet-FPN: features, masks of the ReLUs, and the widest maps while they live."""
_SHARE = 4
"""Of the free memory a batch may take one in so many parts: heads and backward passes need some, too."""
_MOST = 16
"""Images of a batch: more of them fill a GPU no better, and are run in vain where samples stop early."""
_CPU_PIXELS = 2**17
"""Of all images of a batch on a CPU: larger ones are computing, not starting operations, and would need more memory."""


def images_at_once(image: Tensor, device: torch.device) -> int:
    """Return how many images of the size of one ``[3, H, W]`` may run at once, at least 1."""
    pixels = image.shape[1] * image.shape[2]
    if device.type != "cuda":
        return max(1, min(_MOST, _CPU_PIXELS // pixels))
    each = _FLOATS_PER_PIXEL * pixels * image.element_size()
    return max(1, min(_MOST, int(free_memory(device) / (_SHARE * each))))


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
