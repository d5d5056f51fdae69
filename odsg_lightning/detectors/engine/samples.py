"""Several noise samples of an image at once, where one by one would spend its time on starting operations.

Together go the backbone and a head that is local, forwards and backwards. What decodes and suppresses runs for each
image by itself, as Detectron2 runs it: 0.5 cannot differentiate a batch. What is batched are the backbones that the
windowed engine knows: autograd through a graph of B images costs B times as much for each of them.
"""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

from torch import Tensor, nn

from odsg_lightning.detectors.engine.backbone import BackboneEngine
from odsg_lightning.detectors.engine.replay import replayable
from odsg_lightning.detectors.engine.window import UnsupportedModelError
from odsg_lightning.detectors.engine.windowed import WindowedBackbone
from odsg_lightning.saliency.memory import out_of_memory

Result = TypeVar("Result")


def batchable(model: nn.Module, engine: BackboneEngine | None) -> bool:
    """Whether the engine of a model's backbone can record several images at once."""
    return isinstance(engine, WindowedBackbone) and replayable(model.get_submodule("backbone"))


def in_batches(images: Iterator[Tensor], limit: int, run: Callable[[list[Tensor]], Result]) -> Iterator[Result]:
    """Yield a result for each of several batches of images, in order, which are halved when memory runs out.

    If several together are not what an engine knows, each of the rest goes alone.

    Args:
        images: each is taken once, and not before its batch.
        limit: most images of a batch.
        run: what is done with a batch.

    Raises:
        torch.cuda.OutOfMemoryError: memory does not suffice for a single image.
        UnsupportedModelError: of a single image.
    """
    waiting: deque[Tensor] = deque()
    while True:
        waiting.extend(islice(images, max(0, limit - len(waiting))))
        if not waiting:
            return
        try:
            results = [run(list(islice(waiting, limit)))]
        except UnsupportedModelError:
            if limit == 1:
                raise
            limit = 1
            continue
        except RuntimeError as error:
            if limit == 1 or not out_of_memory(error):
                raise
            limit //= 2
            continue  # when the traceback has let go of what the batch had allocated
        for _ in range(min(limit, len(waiting))):
            waiting.popleft()
        yield results.pop()  # and is not kept here: the caller lets go of one before the next is made
