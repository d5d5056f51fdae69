"""Whether calls of ``detect`` leave one another, and the model, alone."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.seed import _collect_rng_states
from torch import Tensor, nn

from odsg_lightning.adapter_check.look import Look, best_of
from odsg_lightning.adapter_check.result import Verdict
from odsg_lightning.adapter_check.subject import Subject, UnusableAnswerError
from odsg_lightning.types import Detections

_PIXELS, _SCORE = 0.5, 0.01
"""How far apart two detections are taken for the same, which rounding moves a little."""


def check_repeatable(look: Look) -> Verdict:
    """The same image twice gives the same detections."""
    (again,) = look.subject.detect(look.image)
    told = _difference(look.found, again, _PIXELS / 100, _SCORE / 100)
    if told is None:
        return "ok", "Two calls give the same."
    return "failure", (
        f"Two calls on the same image differ ({told}): dropout or batch norm in training mode, an augmentation, or "
        "noise in `detect`. Maps average over noise of their own and must see the same detector each time."
    )


def check_batch(look: Look) -> Verdict:
    """Several images of one size at once give what each gives alone."""
    other = look.image.flip(2)
    try:
        together = look.subject.detect(look.image, other)
    except UnusableAnswerError as error:
        return "failure", f"With two images at once, one mirrored: {error}"
    return _agreement(look, together, other, "one mirrored")


def check_sizes(look: Look) -> Verdict:
    """Images of several sizes at once give what each gives alone."""
    height, width = look.image.shape[1:]
    other = look.image[:, : max(height * 3 // 4, 1), : max(width * 7 // 8, 1)]
    try:
        status, words = _agreement(look, look.subject.detect(look.image, other), other, "of different sizes")
    except UnusableAnswerError as error:
        return "warning", (
            f"With images of other sizes: {error} Audits give images of one size at a time, so they run where all are "
            "of this size; `odsg_lightning.saliency.protocol.Detector` allows several."
        )
    return ("warning" if status == "failure" else status), words


def _agreement(look: Look, together: list[Detections], other: Tensor, what: str) -> Verdict:
    told = _difference(look.found, together[0], _PIXELS, _SCORE)
    told = told or _difference(look.subject.detect(other)[0], together[1], _PIXELS, _SCORE)
    if told is None:
        return "ok", f"Two images, {what}, are detected together as they are alone."
    return "failure", (
        f"Two images, {what}, are not detected together as they are alone ({told}): something looks at the whole batch "
        "(batch norm in training mode, one threshold or one NMS for all), the order changes, or padding is seen."
    )


def _difference(first: Detections, second: Detections, pixels: float, score: float) -> str | None:
    """Return how two answers differ, None if each of the first's best ones is in the second but for rounding."""
    if len(first) != len(second):
        return f"{len(first)} detections, then {len(second)}"
    best = best_of(first)
    same = best.labels[:, None] == second.labels[None]
    apart = (best.parameters[:, None] - second.parameters[None]).abs()
    apart = apart.masked_fill(~same[:, :, None], torch.inf)
    close = (apart[:, :, :4].amax(2) <= pixels) & (apart[:, :, 4] <= score)
    lost = ~close.any(1)
    if not bool(lost.any()):
        return None
    nearest = apart[lost].amax(2).amin(1).amax()
    by = f", by {float(nearest):.3g}" if bool(nearest.isfinite()) else ""
    return f"{int(lost.sum())} of the {len(best)} best detections are elsewhere{by}"


# State ----------------------------------------------------------------------------------------------------------------


def check_mode(look: Look) -> Verdict:
    """Nothing runs in training mode."""
    outside = _in_training_mode(look.subject.outside)
    inside = _in_training_mode(() if look.subject.inside is None else (look.subject.inside,))
    if outside:
        return "failure", (
            f"{outside} is in training mode, and audits do not reach it: they put the LightningModule into eval "
            "mode, and this model is held by the adapter alone. Hold it inside the module, or call `.eval()` on it."
        )
    if inside:
        return "failure", (
            f"After `detect`, {inside} is in training mode: audits had put it into eval mode. Remove the `.train()`."
        )
    return "ok", "Everything runs in eval mode."


def _in_training_mode(modules: tuple[nn.Module, ...]) -> str | None:
    return next((type(part).__name__ for module in modules for part in module.modules() if part.training), None)


def check_state(subject: Subject, image: Tensor) -> Verdict:
    """``detect`` leaves the image, the model and the random numbers as they were."""
    given, before, random = image.clone(), dict(_state(subject)), _random()
    with suppress(Exception), torch.enable_grad():  # what it raises is found when its answer is looked at
        subject.detector.detect([given])
    after = dict(_state(subject))
    changed = [name for name in {**before, **after} if not _same(before.get(name), after.get(name))]
    if not torch.equal(given, image):
        changed.insert(0, "the image, in place")
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        return "failure", (
            f"`detect` changes {', '.join(changed[:3])}{more}. An audit runs between two steps of the training and "
            "must leave no trace: no in-place operations, no backward(), no counters, no `.train()`, no hooks."
        )
    if not _same(random, _random()):
        return (
            "warning",
            "`detect` draws random numbers. Audits restore the generators, but a detector should need none.",
        )
    return "ok", "The image, the model and the random numbers are as they were."


def _state(subject: Subject) -> Iterator[tuple[str, Any]]:
    for module in subject.modules:
        for name, part in module.named_modules():
            yield f"the mode of {name or type(module).__name__}", part.training
        for name, parameter in module.named_parameters():
            # The version counts changes in place, without a copy of all weights.
            yield f"the parameter {name}", parameter._version
            yield f"requires_grad of {name}", parameter.requires_grad
            yield f"the gradient of {name}", parameter.grad is None
        for name, buffer in module.named_buffers():
            yield f"the buffer {name}", buffer.clone()


def _random() -> list[Any]:
    states = _collect_rng_states()
    return [states[name] for name in sorted(states)]


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.equal(first, second)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    return bool(np.array_equal(first, second)) if isinstance(first, np.ndarray) else bool(first == second)
